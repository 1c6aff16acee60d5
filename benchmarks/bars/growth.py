"""What a dispatch costs as things become many: nothing more, and in proportion to the size of its body."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.bars.bar import Bar, BarOutcome
from benchmarks.bars.many import bundles, hooks
from benchmarks.driving import LoadCase, OwnLoadCase, h2load_case, idle_connections
from benchmarks.objects import has_header
from benchmarks.rounds import Pace, Readings, interleave, ratios
from tykpy.bench.measure import MIB
from tykpy.bench.scenarios import BUILT_IN
from tykpy.bench.serving import OwnBroker
from tykpy.broker.units import show_size
from tykpy.telemetry.records import counted

FLAT: Final = 1.1
"""Most that the largest setting may cost of the smallest: figures of one run differ by a tenth without a reason."""
PROPORTIONAL: Final = 1.25
"""Most that another MiB may cost with 4 MiB, of that with 1 MiB; they fit into a CPU's caches differently."""
STREAMS: Final = 64
BODY_STREAMS: Final = 8
BODY_WARM_UP_CALLS: Final = 32
WORKERS: Final = 2
BUNDLES: Final = (1, 100, 1000)
HOOKS: Final = (10, 1000, 2000)
CONNECTIONS: Final = (10, 100, 1000)
IDLE: Final = (0, 100, 1000)
IN_FLIGHT: Final = (100, 1000, 10_000)
BODIES: Final = (64 * 1024, MIB, 4 * MIB)
POOL: Final = (8, 64)

_PATIENT: Final = ("--queue-wait", "0")
_MORE: Final = "CPU per dispatch,"
BY_BUNDLES: Final = Bar("bundles", f"{_MORE} 1,000 bundles against 1, all called in turn", FLAT, False)
BY_HOOKS: Final = Bar("hooks", f"{_MORE} 2,000 hooks in a bundle against 10, all called in turn", FLAT, False)
BY_CONNECTIONS: Final = Bar("connections", f"{_MORE} 1,000 connections with a call each against 10", FLAT, False)
BY_IDLE: Final = Bar(
    "idle-connections", f"{_MORE} 1,000 idle connections beside the busy one against none", FLAT, False
)
BY_IN_FLIGHT: Final = Bar("in-flight", f"{_MORE} 10,000 calls in flight against 100", FLAT, False)
BY_BODY: Final = Bar(
    "body-growth", "CPU for each further MiB of body, up to 4 MiB against up to 1 MiB", PROPORTIONAL, False
)
BY_WORKERS: Final = Bar("workers", "broker's CPU per dispatch, 64 workers against 8, 64 streams", FLAT, False)


def _grown(bar: Bar, found: Readings, names: Sequence[str], figure: str = "cpu_us") -> BarOutcome:
    told = ", ".join(f"{name}: {found.median(name, figure):.1f} us" for name in names)
    values = ratios(found.each(names[-1], figure), found.each(names[0], figure))
    return BarOutcome(bar, values, told, tuple(found.point(name) for name in names))


def _header_case(
    name: str, broker: OwnBroker, folder: Path, streams: int, pace: Pace, connections: int = 1
) -> LoadCase:
    scenario = BUILT_IN["header"]
    item = scenario.build(None)
    return h2load_case(name, broker, item, scenario.is_right, folder, streams, pace.seconds, connections)


@contextmanager
def _header_broker(workers: int = WORKERS, streams: int = STREAMS, *options: str) -> Iterator[OwnBroker]:
    with OwnBroker(BUILT_IN["header"].files, workers, 1, streams, options) as broker:
        yield broker


def measure_bundles(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure a broker for each number of bundles; our own load generator calls all of them in turn."""
    with ExitStack() as stack:
        cases = []
        for count in BUNDLES:
            files, items = bundles(folder / f"bundles-{count}", count)
            broker = stack.enter_context(OwnBroker(files, WORKERS, 1, STREAMS))
            cases.append(OwnLoadCase(counted(count, "bundle"), broker, items, has_header, STREAMS, pace.seconds))
        found = interleave(cases, pace.rounds)
    return [_grown(BY_BUNDLES, found, [case.name for case in cases])]


def measure_hooks(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure a broker for each number of hooks in one bundle, called in turn."""
    with ExitStack() as stack:
        cases = []
        for count in HOOKS:
            file, items = hooks(folder / f"hooks-{count}", count)
            broker = stack.enter_context(OwnBroker([file], WORKERS, 1, STREAMS))
            cases.append(OwnLoadCase(f"{count:,} hooks", broker, items, has_header, STREAMS, pace.seconds))
        found = interleave(cases, pace.rounds)
    return [_grown(BY_HOOKS, found, [case.name for case in cases])]


def measure_connections(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure one call at a time on each connection, so that no call shares a system call with another one."""
    with _header_broker() as broker:
        cases = [_header_case(f"{count:,} connections", broker, folder, 1, pace, count) for count in CONNECTIONS]
        found = interleave(cases, pace.rounds)
    return [_grown(BY_CONNECTIONS, found, [case.name for case in cases])]


def measure_idle_connections(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure one busy connection beside each number of connections that do nothing."""
    with ExitStack() as stack:
        cases = []
        for count in IDLE:
            broker = stack.enter_context(_header_broker())
            stack.enter_context(idle_connections(broker.address, count))
            cases.append(_header_case(f"{count:,} idle", broker, folder, STREAMS, pace))
        found = interleave(cases, pace.rounds)
    return [_grown(BY_IDLE, found, [case.name for case in cases])]


def measure_in_flight(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure one connection with more and more streams; no call is refused for having waited."""
    with _header_broker(WORKERS, IN_FLIGHT[-1], *_PATIENT) as broker:
        cases = [_header_case(f"{count:,} in flight", broker, folder, count, pace) for count in IN_FLIGHT]
        found = interleave(cases, pace.rounds)
    return [_grown(BY_IN_FLIGHT, found, [case.name for case in cases])]


def measure_body_growth(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure the slope between sizes, which leaves out what every dispatch costs."""
    scenario = BUILT_IN["body"]
    with _header_broker() as broker:
        cases = [
            h2load_case(
                show_size(size), broker, scenario.build(size), scenario.is_right, folder, BODY_STREAMS, pace.seconds,
                warm_up_calls=BODY_WARM_UP_CALLS,
            )
            for size in BODIES
        ]  # fmt: skip
        found = interleave(cases, pace.rounds)
    small, middle, large = ([*found.each(case.name, "cpu_us")] for case in cases)
    first = [(b - a) / (BODIES[1] - BODIES[0]) * MIB for a, b in zip(small, middle, strict=True)]
    second = [(c - b) / (BODIES[2] - BODIES[1]) * MIB for b, c in zip(middle, large, strict=True)]
    outcome = _grown(BY_BODY, found, [case.name for case in cases])
    return [BarOutcome(BY_BODY, ratios(second, first), outcome.detail, outcome.points)]


def measure_workers(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure both brokers, which run all the time."""
    with ExitStack() as stack:
        cases = []
        for count in POOL:
            broker = stack.enter_context(_header_broker(count))
            cases.append(_header_case(f"{count} workers", broker, folder, STREAMS, pace))
        found = interleave(cases, pace.rounds)
    return [_grown(BY_WORKERS, found, [case.name for case in cases], "broker_us")]
