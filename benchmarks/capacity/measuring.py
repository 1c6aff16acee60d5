"""Measures a calibration and a number of workloads in the same rounds, and compares them with the formula.

The number of cores is measured with each workload, because other processes use some of them meanwhile.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import h2load
from benchmarks.capacity.formula import US_PER_SECOND, Bound, Calibration, Costs, Workload, capacity
from benchmarks.driving import WARM_UP_CALLS, LoadCase, h2load_case
from benchmarks.objects import has_header, typical_post
from benchmarks.reports import Findings, Table
from benchmarks.rounds import Measurable, Pace, Reading, Readings, interleave, ratios
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.measure import MachineTime, machine_time, usable_cpus
from tykpy.bench.serving import OwnBroker
from tykpy.commands.objects import bundle_hash

BUNDLE: Final = Path(__file__).with_name("capacity_hooks.py")
TOGETHER_STREAMS: Final = 64
MIN_STREAMS: Final = 16
QUEUED: Final = 2
"""Calls at once for each thread: one that runs, and one that waits."""
PATIENT: Final = ("--queue-wait", "0")
"""Options with which no call is refused: what counts is how many get through."""
COLUMNS: Final = (
    "hook", "workers", "threads", "cores", "predicted/s", "limit", "measured/s (rounds)", "measured : predicted",
    "CPU us",
)  # fmt: skip


class KnownHook(NamedTuple):
    """One of the bundle's hooks, and the time it takes."""

    name: str
    text: str
    cpu_us: float = 0.0
    wait_us: float = 0.0


HEADER: Final = KnownHook("header", "adds a header")
PLAN: Final[dict[KnownHook, tuple[tuple[int, int], ...]]] = {
    HEADER: ((1, 1), (4, 1), (8, 1)),
    KnownHook("cpu_500us", "0.5 ms CPU", cpu_us=500): ((1, 1), (2, 1), (8, 1)),
    KnownHook("cpu_2ms", "2 ms CPU", cpu_us=2000): ((1, 1), (1, 8), (2, 1), (8, 1)),
    KnownHook("wait_5ms", "waits 5 ms", wait_us=5000): ((1, 1), (1, 8), (2, 8), (8, 8)),
    KnownHook("wait_20ms", "waits 20 ms", wait_us=20_000): ((1, 1), (8, 1), (1, 8), (8, 8)),
}
"""Workers and threads for each hook, besides the calibration."""


class Trial(NamedTuple):
    """A hook in a broker with so many workers, and so many threads in each."""

    hook: KnownHook
    workers: int
    threads: int
    alone: bool = False
    """Make one call at a time; otherwise as many as keep every thread busy."""

    @property
    def name(self) -> str:
        """A unique name."""
        return f"{self.hook.name} {self.workers} x {self.threads}{' alone' if self.alone else ''}"

    @property
    def streams(self) -> int:
        """How many calls are made at once."""
        if self.alone:
            return 1
        if self.hook == HEADER:
            return TOGETHER_STREAMS
        return max(MIN_STREAMS, QUEUED * self.workers * self.threads)

    def workload(self, cores: float) -> Workload:
        """Return what the formula needs."""
        return Workload(self.hook.cpu_us, self.hook.wait_us, self.workers, self.threads, cores)


class Prediction(NamedTuple):
    """One trial: what was predicted and what was measured; medians over the rounds."""

    trial: Trial
    cores: float
    predicted: float
    bound: Bound
    measured: float
    lowest: float
    highest: float
    ratio: float
    """Measured divided by predicted, round by round, because other processes come and go between rounds."""
    cpu_us: float
    """CPU of broker and workers per dispatch, the hook's own included."""

    def cells(self) -> tuple[str, ...]:
        """Return the cells under `COLUMNS`."""
        return (
            self.trial.hook.text,
            str(self.trial.workers),
            str(self.trial.threads),
            f"{self.cores:.2f}",
            f"{self.predicted:,.0f}",
            str(self.bound),
            f"{self.measured:,.0f} ({self.lowest:,.0f} to {self.highest:,.0f})",
            f"{self.ratio:.2f}x",
            f"{self.cpu_us:,.0f}",
        )


class Confirmation(NamedTuple):
    """The calibration, and every trial beside its prediction."""

    calibration: Calibration
    rows: tuple[Prediction, ...]


@dataclass(slots=True)
class CoresCase:
    """A case that also measures how many cores other processes leave to it in each round."""

    case: Measurable[Reading]
    cores: int
    left: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Delegate to the case."""
        return self.case.name

    def warm_up(self) -> None:
        """Delegate to the case."""
        self.case.warm_up()

    def measure(self) -> Reading:
        """Measure one round."""
        before = machine_time()
        reading = self.case.measure()
        self.left.append(cores_left(before, machine_time(), reading, self.cores))
        return reading


def cores_left(before: MachineTime, after: MachineTime, reading: Reading, cores: int) -> float:
    """Return what a reading used of the cores plus what was idle meanwhile."""
    used = reading.rate * (reading.cpu_us + reading.load_us) / US_PER_SECOND
    idle = cores * (1 - (after.busy - before.busy) / max(1, after.total - before.total))
    return min(cores, used + idle)


def calibrating(cores: int) -> tuple[Trial, Trial]:
    """Return the calibration: a worker per core, a hook that does next to nothing, calls together and alone."""
    return Trial(HEADER, cores, 1), Trial(HEADER, cores, 1, alone=True)


def trials(cores: int) -> list[Trial]:
    """Return all trials, those of the calibration first and none twice."""
    planned = (Trial(hook, *sizes) for hook, all_sizes in PLAN.items() for sizes in all_sizes)
    return list(dict.fromkeys((*calibrating(cores), *planned)))


def confirm(pace: Pace, folder: Path) -> Confirmation:
    """Measure all trials in each round, with all brokers running all the time."""
    h2load.find()
    cores = usable_cpus()
    wanted = trials(cores)
    with ExitStack() as stack:
        brokers = _brokers(stack, wanted)
        cases = [
            CoresCase(_case(trial, brokers[trial.workers, trial.threads], folder, pace), cores) for trial in wanted
        ]
        found = interleave(cases, pace.rounds)
    return compared(wanted, found, {case.name: case.left for case in cases})


def compared(wanted: Sequence[Trial], found: Readings, cores: Mapping[str, Sequence[float]]) -> Confirmation:
    """Compare what the formula predicts from the first two trials, the calibration, with what was measured."""
    together, alone, *_ = wanted
    calibration = Calibration(_costs(found, together), _costs(found, alone))
    predictable = [trial for trial in wanted if not trial.alone]
    return Confirmation(calibration, tuple(_row(trial, calibration, found, cores[trial.name]) for trial in predictable))


def findings(confirmation: Confirmation, pace: Pace) -> Findings:
    """Return the table, with the costs that the predictions are made of below it."""
    calibration = confirmation.calibration
    told = (
        f"Calibration, the first row's broker and hook: with {TOGETHER_STREAMS} calls at once "
        f"{_costs_text(calibration.together)}; with one {_costs_text(calibration.alone)}."
    )
    rows = [row.cells() for row in confirmation.rows]
    rounds = f"Medians of {pace.rounds} interleaved rounds of about {pace.seconds:g} s."
    figures = {"rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows]}
    return Findings([Table(COLUMNS, rows)], [told, rounds], figures)


def _costs(found: Readings, trial: Trial) -> Costs:
    return Costs(
        found.median(trial.name, "broker_us"),
        found.median(trial.name, "workers_us"),
        found.median(trial.name, "load_us"),
    )


def _costs_text(costs: Costs) -> str:
    return (
        f"{costs.broker_us:.1f} us CPU in the broker, {costs.worker_us:.1f} us in workers, "
        f"{costs.caller_us:.1f} us in the caller, h2load"
    )


def _row(trial: Trial, calibration: Calibration, found: Readings, cores: Sequence[float]) -> Prediction:
    rates = found.each(trial.name, "rate")
    predicted = [capacity(calibration, trial.workload(left)).rate for left in cores]
    typical = statistics.median(cores)
    return Prediction(
        trial,
        typical,
        *capacity(calibration, trial.workload(typical)),
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(ratios(rates, predicted)),
        found.median(trial.name, "cpu_us"),
    )


def _brokers(stack: ExitStack, wanted: Iterable[Trial]) -> dict[tuple[int, int], OwnBroker]:
    streams: dict[tuple[int, int], int] = {}
    for trial in wanted:
        sizes = trial.workers, trial.threads
        streams[sizes] = max(trial.streams, streams.get(sizes, 0))
    return {sizes: stack.enter_context(OwnBroker([BUNDLE], *sizes, most, PATIENT)) for sizes, most in streams.items()}


def _case(trial: Trial, broker: OwnBroker, folder: Path, pace: Pace) -> LoadCase:
    # A hook that takes long is warm after a few calls, and a thousand of them take up to 20 s.
    warm_up_calls = WARM_UP_CALLS if trial.hook == HEADER else trial.streams
    item = _call(trial.hook)
    return h2load_case(
        trial.name, broker, item, has_header, folder, trial.streams, pace.seconds, warm_up_calls=warm_up_calls
    )


def _call(hook: KnownHook) -> Object:
    item = typical_post()
    item.hook_name = hook.name
    item.spec["bundle_hash"] = bundle_hash(BUNDLE.name)
    return item
