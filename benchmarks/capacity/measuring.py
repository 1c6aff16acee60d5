"""Measures one calibration and a number of settings in the same rounds, and sets them beside the formula.

How many cores there are for a setting is measured with it: what other processes use meanwhile is not to be had.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.bars.bar import ratios
from benchmarks.bars.driving import WARM_UP_CALLS, H2LoadCase
from benchmarks.bars.many import has_header
from benchmarks.bars.rounds import Case, Pace, Reading, Readings, cpu_us, interleave, rate
from benchmarks.capacity.formula import US_PER_SECOND, Bound, Calibration, Costs, Setting, capacity
from benchmarks.objects import typical_post
from benchmarks.output import markdown_table
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.measure import MachineTime, machine_time
from tykpy.bench.results import usable_cpus
from tykpy.bench.serving import OwnBroker
from tykpy.commands.objects import bundle_hash

BUNDLE: Final = Path(__file__).with_name("capacity_hooks.py")
TOGETHER_STREAMS: Final = 64
MIN_STREAMS: Final = 16
QUEUED: Final = 2
"""Calls at once for each thread: one that it runs, and one that waits for it."""
PATIENT: Final = ("--queue-wait", "0")
"""Nothing is turned away: all that is wanted is how much gets through."""
COLUMNS: Final = (
    "hook", "workers", "threads", "cores", "predicted/s", "limit", "measured/s (rounds)", "measured : predicted",
    "CPU us",
)  # fmt: skip


class Hook(NamedTuple):
    """One of the bundle's hooks, and what it takes."""

    name: str
    text: str
    cpu_us: float = 0.0
    wait_us: float = 0.0


HEADER: Final = Hook("header", "adds a header")
PLAN: Final[dict[Hook, tuple[tuple[int, int], ...]]] = {
    HEADER: ((1, 1), (4, 1), (8, 1)),
    Hook("cpu_500us", "0.5 ms CPU", cpu_us=500): ((1, 1), (2, 1), (8, 1)),
    Hook("cpu_2ms", "2 ms CPU", cpu_us=2000): ((1, 1), (1, 8), (2, 1), (8, 1)),
    Hook("wait_5ms", "waits 5 ms", wait_us=5000): ((1, 1), (1, 8), (2, 8), (8, 8)),
    Hook("wait_20ms", "waits 20 ms", wait_us=20_000): ((1, 1), (8, 1), (1, 8), (8, 8)),
}
"""For each hook, workers and threads; the calibration is beside them."""


class Trial(NamedTuple):
    """A hook in a broker with so many workers and threads in each."""

    hook: Hook
    workers: int
    threads: int
    alone: bool = False
    """One call at a time; else as many as keep every thread busy."""

    @property
    def name(self) -> str:
        """Told apart by it."""
        return f"{self.hook.name} {self.workers} x {self.threads}{' alone' if self.alone else ''}"

    @property
    def streams(self) -> int:
        """Calls at once."""
        if self.alone:
            return 1
        if self.hook == HEADER:
            return TOGETHER_STREAMS
        return max(MIN_STREAMS, QUEUED * self.workers * self.threads)

    def setting(self, cores: float) -> Setting:
        """What the formula needs."""
        return Setting(self.hook.cpu_us, self.hook.wait_us, self.workers, self.threads, cores)


class Row(NamedTuple):
    """One trial: what was predicted, and what came; medians over the rounds."""

    trial: Trial
    cores: float
    predicted: float
    bound: Bound
    measured: float
    lowest: float
    highest: float
    ratio: float
    """Measured, of what was predicted, round by round: others come and go between them."""
    cpu_us: float
    """Of broker and workers per dispatch, the hook's own with it."""

    def cells(self) -> tuple[str, ...]:
        """In the order of COLUMNS."""
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
    rows: tuple[Row, ...]


@dataclass(slots=True)
class CoresCase:
    """A case that also measures, in each round, how many cores other processes left to it."""

    case: Case
    cores: int
    left: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    def warm_up(self) -> None:
        """The case's."""
        self.case.warm_up()

    def measure(self) -> Reading:
        """One round."""
        before = machine_time()
        reading = self.case.measure()
        self.left.append(cores_left(before, machine_time(), reading, self.cores))
        return reading


def cores_left(before: MachineTime, after: MachineTime, reading: Reading, cores: int) -> float:
    """What a reading used of the cores, and what was idle meanwhile."""
    used = reading.rate * (reading.cpu_us + reading.load_us) / US_PER_SECOND
    idle = cores * (1 - (after.busy - before.busy) / max(1, after.total - before.total))
    return min(cores, used + idle)


def calibrating(cores: int) -> tuple[Trial, Trial]:
    """As many workers as cores, and a hook that does next to nothing: calls together, and alone."""
    return Trial(HEADER, cores, 1), Trial(HEADER, cores, 1, alone=True)


def trials(cores: int) -> list[Trial]:
    """Those of the calibration first, none twice."""
    planned = (Trial(hook, *sizes) for hook, all_sizes in PLAN.items() for sizes in all_sizes)
    return list(dict.fromkeys((*calibrating(cores), *planned)))


def confirm(pace: Pace, folder: Path) -> Confirmation:
    """All brokers are up all the time, and every trial gets its turn in each round."""
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
    """What the formula makes of the first two trials, the calibration, beside what was measured."""
    together, alone, *_ = wanted
    calibration = Calibration(_costs(found, together), _costs(found, alone))
    predictable = [trial for trial in wanted if not trial.alone]
    return Confirmation(calibration, tuple(_row(trial, calibration, found, cores[trial.name]) for trial in predictable))


def markdown(confirmation: Confirmation, notes: Iterable[str]) -> str:
    """The table, with the costs that the predictions are made of below it."""
    calibration = confirmation.calibration
    told = (
        f"Calibration, the first row's broker and hook: with {TOGETHER_STREAMS} calls at once "
        f"{_costs_text(calibration.together)}; with one {_costs_text(calibration.alone)}."
    )
    table = markdown_table(COLUMNS, (row.cells() for row in confirmation.rows))
    return table + "\n\n" + "\n".join(f"* {note}" for note in (told, *notes)) + "\n"


def _costs(found: Readings, trial: Trial) -> Costs:
    return Costs(
        found.median(trial.name, lambda reading: reading.broker_us),
        found.median(trial.name, lambda reading: reading.workers_us),
        found.median(trial.name, lambda reading: reading.load_us),
    )


def _costs_text(costs: Costs) -> str:
    return (
        f"{costs.broker_us:.1f} us CPU in the broker, {costs.worker_us:.1f} us in workers, "
        f"{costs.caller_us:.1f} us in the caller, h2load"
    )


def _row(trial: Trial, calibration: Calibration, found: Readings, cores: Sequence[float]) -> Row:
    rates = found.each(trial.name, rate)
    predicted = [capacity(calibration, trial.setting(left)).rate for left in cores]
    typical = statistics.median(cores)
    return Row(
        trial,
        typical,
        *capacity(calibration, trial.setting(typical)),
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(ratios(rates, predicted)),
        found.median(trial.name, cpu_us),
    )


def _brokers(stack: ExitStack, wanted: Iterable[Trial]) -> dict[tuple[int, int], OwnBroker]:
    streams: dict[tuple[int, int], int] = {}
    for trial in wanted:
        sizes = trial.workers, trial.threads
        streams[sizes] = max(trial.streams, streams.get(sizes, 0))
    return {sizes: stack.enter_context(OwnBroker([BUNDLE], *sizes, most, PATIENT)) for sizes, most in streams.items()}


def _case(trial: Trial, broker: OwnBroker, folder: Path, pace: Pace) -> H2LoadCase:
    # A hook that takes long is warm after a few calls, and a thousand of them take up to 20 s.
    warm_up_calls = WARM_UP_CALLS if trial.hook == HEADER else trial.streams
    return H2LoadCase(
        trial.name, broker.address, broker.pids, _call(trial.hook), has_header, folder, trial.streams, pace.seconds,
        warm_up_calls=warm_up_calls,
    )  # fmt: skip


def _call(hook: Hook) -> Object:
    item = typical_post()
    item.hook_name = hook.name
    item.spec["bundle_hash"] = bundle_hash(BUNDLE.name)
    return item
