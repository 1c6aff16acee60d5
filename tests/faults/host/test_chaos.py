"""Workers killed at random under load: every call ends exactly once, as what happened to its hook says; and everything
killed at random: nothing is left behind, and what is started next serves."""

import os
import random
import re
import signal
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.chaos import SOURCE, Callers, Failure, Journal

WORKERS = 4
KILL_INTERVAL = 0.05
"""Seconds."""
LATEST_KILL = 2.0
"""Seconds after the start: the broker is ready after about a third of it."""
SHARED_MEMORY = Path("/dev/shm")
KILLED = re.compile(r"process (\d+)\) was ended by SIGKILL while it ran this hook \(recorded\)$")
NEVER_STARTED = "before it started this hook, 3 times"
"""A dispatch is given to three workers at most."""


def chaotic_broker(folder: Path, *flags: str, env: dict[str, str]) -> RunningBroker:
    broker = RunningBroker(folder, "--timeout", "300", *flags, workers=WORKERS, env=env)
    broker.add_file("chaos.py", SOURCE)
    return broker


# -- workers ---


class Killer:
    """Kills serving workers, each only once."""

    def __init__(self, broker: RunningBroker, seed: int) -> None:
        self._broker = broker
        self._random = random.Random(seed)
        self.killed: list[int] = []

    def kill_one(self) -> None:
        workers = self._broker.status()["workers"]
        serving = [row["pid"] for row in workers if row["state"] == "ready" and row["pid"] not in self.killed]
        if serving:
            victim = self._random.choice(serving)
            os.kill(victim, signal.SIGKILL)
            self.killed.append(victim)


def kill_under_load(folder: Path, calls: int, kill: Callable[[Killer, Callers], None]) -> None:
    journal = Journal(folder / "journal")
    with chaotic_broker(folder, env=journal.environment) as broker:
        killer = Killer(broker, seed=calls)
        with Callers(broker.address, calls) as callers:
            kill(killer, callers)
        broker.check_accounts()
        status = broker.status()
        print(status["dispatches"], f"{len(killer.killed)} workers killed, {status['restarts']} restarts")
        given_up = check_account(calls, callers, journal.runs(), set(killer.killed))
        check_counters(callers, status["dispatches"])
        broker.call("recorded", bundle="chaos", headers=[("Nonce", "after all")])
        assert not given_up, "calls that nobody had started failed"


def check_account(calls: int, callers: Callers, runs: Counter[str], killed: set[int]) -> set[str]:
    """Compare every outcome with what happened; return the calls that failed without having been started."""
    answers, failures = callers.answers, callers.failures
    given_up = {nonce for nonce, failure in failures.items() if NEVER_STARTED in failure.message}
    running = [failure for nonce, failure in failures.items() if nonce not in given_up]
    unrecorded = sum(not runs[nonce] for nonce in failures)
    print(f"{len(answers)} answers, {len(running)} failed while they ran ({unrecorded} before their first line),")
    print(f"{len(given_up)} given up after three workers that died with them unstarted")
    assert len(answers) + len(failures) == calls
    assert not answers.keys() & failures.keys()
    assert {nonce: back for nonce, back in answers.items() if nonce != back} == {}
    assert {nonce: runs[nonce] for nonce in answers if runs[nonce] != 1} == {}
    assert {nonce: runs[nonce] for nonce in failures if runs[nonce] > (nonce not in given_up)} == {}
    assert runs.keys() <= answers.keys() | failures.keys()
    check_each_worker_cost_one_call(running, killed)
    return given_up


def check_each_worker_cost_one_call(failures: list[Failure], killed: set[int]) -> None:
    costs: Counter[int] = Counter()
    for failure in failures:
        match = KILLED.search(failure.message)
        assert match is not None, failure
        costs[int(match[1])] += 1
    assert not [pid for pid, cost in costs.items() if cost > 1], "a worker that runs one call has cost several"
    assert costs.keys() <= killed


def check_counters(callers: Callers, counters: dict[str, int]) -> None:
    """Check that the broker's own counters agree."""
    assert counters["taken"] == len(callers.answers) + len(callers.failures)
    assert counters["answered"] == len(callers.answers)
    assert counters["failed"] == len(callers.failures)
    assert not counters["late"] + counters["expired"] + counters["refused"] + counters["cancelled"]


def test_every_call_ends_once_whichever_workers_are_killed(tmp_path: Path) -> None:
    def kill(killer: Killer, callers: Callers) -> None:
        for kills in range(1, 11):
            callers.wait_ended(kills * 250)
            killer.kill_one()
        assert len(killer.killed) > 5

    kill_under_load(tmp_path, 3_000, kill)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_100000_calls_while_a_worker_is_killed_every_50_ms(tmp_path: Path) -> None:
    def kill(killer: Killer, callers: Callers) -> None:
        while not callers.done.wait(KILL_INTERVAL):
            killer.kill_one()
        assert len(killer.killed) > 100

    kill_under_load(tmp_path, 100_000, kill)


# -- everything ---


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes with this in their environment, whatever their parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ().values() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill_everything(broker: RunningBroker, mark: str, order: random.Random) -> int:
    """Send SIGKILL to broker and workers in any order; return how many there were."""
    processes = marked(mark)
    order.shuffle(processes)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    # What was being started at this moment was not in the list: it must end by itself.
    broker.wait()
    wait_until(lambda: not marked(mark), lambda: f"the end of {marked(mark)}")
    return len(processes)


def kill_everything_again_and_again(folder: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    mark = uuid.uuid4().hex
    journal = Journal(folder / "journal")
    broker = chaotic_broker(folder, env={**journal.environment, "CHAOS_MARK": mark})
    kills: Counter[str] = Counter()
    with broker.unready():
        for _ in range(rounds):
            # When is the fault itself: nothing is waited for here.
            with Callers(broker.address, None) as callers:
                callers.done.wait(chance.uniform(0, LATEST_KILL))
                killed = kill_everything(broker, mark, chance)
                callers.stop()
            kills["processes"] += killed
            kills["under load" if callers.answers else "at the start"] += 1
            assert callers.answers.items() == {nonce: nonce for nonce in callers.answers}.items()
            assert not [path for path in SHARED_MEMORY.glob("tykpy-*") if not path.name.startswith("tykpy-live-")]
            broker.forget_status()
            broker.start().wait_ready()
            answer = broker.call("recorded", bundle="chaos", headers=[("Nonce", "after all")])
            assert answer.request.set_headers["Nonce"] == "after all"
            kill_everything(broker, mark, chance)
            broker.forget_status()
            broker.start()
    print(f"{rounds} rounds: {dict(kills)}")


def test_a_broker_serves_after_everything_was_killed(tmp_path: Path) -> None:
    kill_everything_again_and_again(tmp_path, 5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_everything_is_killed_200_times(tmp_path: Path) -> None:
    kill_everything_again_and_again(tmp_path, 200)
