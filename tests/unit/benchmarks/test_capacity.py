"""The capacity formula with figures that can be checked by hand, and its table."""

from dataclasses import replace

import pytest

from benchmarks.capacity.formula import Bound, Calibration, Capacity, Costs, Workload, bounds, capacity, costs_of
from benchmarks.capacity.measuring import (
    HEADER,
    PLAN,
    Confirmation,
    CoresCase,
    KnownHook,
    Trial,
    calibrating,
    compared,
    cores_left,
    findings,
    trials,
)
from benchmarks.rounds import Pace, Reading, Readings
from tykpy.bench.measure import MachineTime

TOGETHER = Costs(broker_us=16, worker_us=12, caller_us=12)
ALONE = Costs(broker_us=60, worker_us=30, caller_us=10)
CALIBRATION = Calibration(TOGETHER, ALONE)
SHORT = Workload(cpu_us=0, wait_us=0, workers=2, threads=1, cores=2)


def test_short_hooks_are_bounded_by_shared_cores() -> None:
    assert capacity(CALIBRATION, SHORT) == Capacity(2_000_000 / 40, Bound.CORES)
    assert capacity(CALIBRATION, replace(SHORT, cores=1.5)) == Capacity(1_500_000 / 40, Bound.CORES)


def test_with_enough_cores_the_broker_is_the_bound() -> None:
    many = replace(SHORT, workers=8, cores=16)
    assert capacity(CALIBRATION, many) == Capacity(1_000_000 / 16, Bound.BROKER)


def test_only_a_caller_on_the_same_machine_can_be_the_bound() -> None:
    slow = replace(CALIBRATION, together=replace(TOGETHER, caller_us=50))
    assert capacity(slow, replace(SHORT, workers=8, cores=16)) == Capacity(20_000, Bound.CALLER)
    elsewhere = replace(TOGETHER, caller_us=0)
    assert Bound.CALLER not in bounds(elsewhere, SHORT)
    assert bounds(elsewhere, SHORT)[Bound.CORES] == 2_000_000 / 28


def test_computing_hooks_are_bounded_by_interpreter_locks() -> None:
    one = Workload(cpu_us=1970, wait_us=0, workers=1, threads=1, cores=4)
    assert capacity(CALIBRATION, one) == Capacity(500, Bound.LOCKS)
    assert capacity(CALIBRATION, replace(one, threads=8)) == Capacity(500, Bound.LOCKS)
    assert capacity(CALIBRATION, replace(one, workers=2)) == Capacity(1000, Bound.LOCKS)
    assert capacity(CALIBRATION, replace(one, workers=8)) == Capacity(4_000_000 / 2070, Bound.CORES)


def test_waiting_hooks_are_bounded_by_threads() -> None:
    waiting = Workload(cpu_us=0, wait_us=19_970, workers=8, threads=16, cores=2)
    assert capacity(CALIBRATION, waiting) == Capacity(6400, Bound.THREADS)
    assert capacity(CALIBRATION, replace(waiting, threads=1)) == Capacity(400, Bound.THREADS)


def test_dispatches_travel_alone_if_hooks_take_long() -> None:
    assert costs_of(CALIBRATION, replace(SHORT, cpu_us=99)) is TOGETHER
    assert costs_of(CALIBRATION, replace(SHORT, cpu_us=100)) is ALONE
    assert costs_of(CALIBRATION, replace(SHORT, cpu_us=40, wait_us=60)) is ALONE


def test_each_trial_is_made_once_after_the_calibration() -> None:
    for cores in (1, 2, 4, 64):
        wanted = trials(cores)
        assert tuple(wanted[:2]) == calibrating(cores)
        assert len(set(wanted)) == len(wanted) == len({trial.name for trial in wanted})
        assert {trial.hook for trial in wanted} == set(PLAN)


def test_enough_calls_keep_every_thread_busy() -> None:
    assert [trial.streams for trial in calibrating(2)] == [64, 1]
    for trial in trials(2)[2:]:
        assert trial.streams >= 2 * trial.workers * trial.threads


def test_cores_used_by_other_processes_are_not_left() -> None:
    reading = Reading(rate=10_000, p50_us=0, broker_us=40, workers_us=30, load_us=10)
    quiet = cores_left(MachineTime(0, 0), MachineTime(800, 2000), reading, 2)
    assert quiet == pytest.approx(2.0)
    busy = cores_left(MachineTime(0, 0), MachineTime(1800, 2000), reading, 2)
    assert busy == pytest.approx(0.8 + 0.2)


def test_coarse_ticks_leave_at_most_all_cores() -> None:
    reading = Reading(rate=10_000, p50_us=0, broker_us=40, workers_us=30, load_us=10)
    assert cores_left(MachineTime(0, 0), MachineTime(0, 0), reading, 2) == 2


class FixedCase:
    name = "fixed"

    def warm_up(self) -> None:
        pass

    def measure(self) -> Reading:
        return Reading(100, 1, 2, 3, 4)


def test_cores_are_measured_with_each_round() -> None:
    case = CoresCase(FixedCase(), 2)
    assert [case.measure(), case.measure()] == [Reading(100, 1, 2, 3, 4)] * 2
    assert len(case.left) == 2
    assert all(0 <= left <= 2 for left in case.left)


def test_the_table_compares_measured_with_predicted() -> None:
    together, alone = calibrating(2)
    slow = Trial(KnownHook("slow", "2 ms CPU", cpu_us=1970), 1, 1)
    rounds: dict[str, list[Reading]] = {trial.name: [] for trial in (together, alone, slow)}
    for rate, slow_rate in ((40_000, 400), (45_000, 450), (50_000, 475)):
        rounds[together.name].append(Reading(rate, 1, 16, 12, 12))
        rounds[alone.name].append(Reading(8_000, 1, 60, 30, 10))
        rounds[slow.name].append(Reading(slow_rate, 1, 70, 2030, 10))
    cores = {together.name: [1.6, 2.0, 2.0], alone.name: [2.0] * 3, slow.name: [1.8] * 3}
    confirmation = compared([together, alone, slow], Readings(rounds), cores)
    assert isinstance(confirmation, Confirmation)
    assert confirmation.calibration == CALIBRATION
    assert [row.trial.hook for row in confirmation.rows] == [HEADER, slow.hook]
    text = findings(confirmation, Pace(3, 0.5)).markdown({}, "a command")
    assert "| adds a header | 2 | 1 | 2.00 | 50,000 | cores | 45,000 (40,000 to 50,000) | 1.00x | 28 |\n" in text
    assert "| 2 ms CPU | 1 | 1 | 1.80 | 500 | interpreter locks | 450 (400 to 475) | 0.90x | 2,100 |\n" in text
    assert "* Medians of 3 interleaved rounds of about 0.5 s.\n" in text
