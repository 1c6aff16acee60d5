"""How fast hooks of several kinds are: those that compute, those that wait, chains; and what tracing costs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.bars.bar import Bar, BarOutcome
from benchmarks.driving import LoadCase, OwnLoadCase, h2load_case
from benchmarks.rounds import Pace, interleave, ratios
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.bench.limits import limit_of
from tykpy.bench.measure import usable_cpus
from tykpy.bench.results import Case, CaseResult
from tykpy.bench.scenarios import BUILT_IN, Scenario
from tykpy.bench.serving import OwnBroker

CPU_HOOKS_PER_SECOND: Final = 500
"""Of 2 ms on one core."""
WAIT_SECONDS: Final = 0.02
WAITING_WORKERS: Final = 8
WAITING_THREADS: Final = 16
AT_ONCE: Final = WAITING_WORKERS * WAITING_THREADS
IDEAL_WAITING: Final = AT_ONCE / WAIT_SECONDS
MIN_SECONDS: Final = 1.0
"""Of a measurement with hooks that take long."""
STREAMS: Final = 64
CHAIN: Final = 5

CPU_HOOK: Final = Bar("cpu-hook", "dispatches/s of a 2 ms CPU hook, as many workers as cores, of the ideal", 0.9, True)
WAITING: Final = Bar("waiting", "dispatches/s of a 20 ms waiting hook, 8 workers x 16 threads, of 6,400/s", 0.9, True)
WAITING_ASYNC: Final = Bar(
    "waiting-async", "dispatches/s of a 20 ms waiting coroutine, 8 workers, 256 calls at once, of 6,400/s", 0.9, True
)
TRACEPARENT: Final = Bar(
    "traceparent", "CPU per dispatch with a new traceparent in every call, against none", 1.25, False
)
CHAINED: Final = Bar("chain", "chains of 5 hooks per second in one dispatch each, against 5 dispatches each", 3.0, True)
CHAINED_ALONE: Final = Bar(
    "chain-alone", "the same with 1 stream: a request alone, which waits for its 5 calls one after the other", 3.0, True
)


def _broker(scenario: Scenario, workers: int, threads: int = 0) -> OwnBroker:
    return OwnBroker(scenario.files, workers, threads, scenario.streams)


def _of_ideal(bar: Bar, scenario: Scenario, broker: OwnBroker, streams: int, ideal: float, pace: Pace) -> BarOutcome:
    with broker:
        seconds = max(pace.seconds, MIN_SECONDS)
        case = OwnLoadCase(bar.name, broker, [scenario.build(None)], scenario.is_right, streams, seconds)
        found = interleave([case], pace.rounds)
    rates = found.each(bar.name, "rate")
    result = CaseResult(Case(scenario.name, broker.workers, broker.threads, streams), tuple(case.samples))
    limit = limit_of(result)
    detail = f"{found.median(bar.name, 'rate'):,.0f}/s of {ideal:,.0f}/s; limit: {limit.part}: {limit.reason}"
    return BarOutcome(bar, tuple(value / ideal for value in rates), detail, (found.point(bar.name),))


def measure_cpu_hook(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure a hook that ends when its thread has used 2 ms of CPU, whatever other processes take from the cores.

    h2load uses less of the cores than our own load generator does.
    """
    cores = usable_cpus()
    scenario = BUILT_IN["cpu"]
    ideal = cores * CPU_HOOKS_PER_SECOND
    seconds = max(pace.seconds, MIN_SECONDS)
    item, name = scenario.build(None), CPU_HOOK.name
    with _broker(scenario, cores) as broker:
        case = h2load_case(name, broker, item, scenario.is_right, folder, scenario.streams, seconds)
        found = interleave([case], pace.rounds)
    each = found.median(name, "cpu_us")
    detail = f"{found.median(name, 'rate'):,.0f}/s of {ideal:,.0f}/s; {each:,.0f} us of CPU each in broker and workers"
    return [
        BarOutcome(CPU_HOOK, tuple(value / ideal for value in found.each(name, "rate")), detail, (found.point(name),))
    ]


def measure_waiting(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure with more calls at once than threads, so that no thread waits for a call."""
    scenario = BUILT_IN["wait"]
    broker = _broker(scenario, WAITING_WORKERS, WAITING_THREADS)
    return [_of_ideal(WAITING, scenario, broker, 2 * AT_ONCE, IDEAL_WAITING, pace)]


def measure_waiting_async(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure with as many calls at once as for threads: 128 reach 6,400/s only if nothing but waiting takes time."""
    scenario = BUILT_IN["wait-async"]
    return [_of_ideal(WAITING_ASYNC, scenario, _broker(scenario, WAITING_WORKERS), 2 * AT_ONCE, IDEAL_WAITING, pace)]


def measure_traceparent(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure both with our own load generator, because h2load cannot vary headers."""
    scenario = BUILT_IN["header"]
    plain, traced = "no traceparent", "a new traceparent"
    with _broker(scenario, 2) as broker:
        case = OwnLoadCase(plain, broker, [scenario.build(None)], scenario.is_right, STREAMS, pace.seconds)
        found = interleave([case, replace(case, name=traced, tracing=True, samples=[])], pace.rounds)
    with_it, without = found.each(traced, "cpu_us"), found.each(plain, "cpu_us")
    detail = f"{found.median(traced, 'cpu_us'):.1f} us against {found.median(plain, 'cpu_us'):.1f} us"
    return [BarOutcome(TRACEPARENT, ratios(with_it, without), detail, (found.point(plain), found.point(traced)))]


def measure_chain(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure `*`, which is one call, against the 5 calls that a gateway makes for 5 hooks, one after the other."""
    scenario = BUILT_IN["chain"]
    single = scenario.build(None)
    single.hook_name = "bench_chain_1"
    alone, chain = "one hook per dispatch", "five hooks per dispatch"

    def outcome(bar: Bar, broker: OwnBroker, streams: int) -> BarOutcome:
        def case(name: str, item: Object, is_right: Callable[[Object], bool]) -> LoadCase:
            return h2load_case(name, broker, item, is_right, folder, streams, pace.seconds)

        cases = [
            case(alone, single, lambda answer: "X-Bench-1" in answer.request.set_headers),
            case(chain, scenario.build(None), scenario.is_right),
        ]
        found = interleave(cases, pace.rounds)
        values = ratios(found.each(chain, "rate"), found.each(alone, "rate"), CHAIN)
        detail = f"{found.median(chain, 'rate'):,.0f}/s against {found.median(alone, 'rate') / CHAIN:,.0f}/s"
        return BarOutcome(bar, values, detail, (found.point(alone), found.point(chain)))

    with _broker(scenario, 2) as broker:
        return [outcome(CHAINED, broker, STREAMS), outcome(CHAINED_ALONE, broker, 1)]
