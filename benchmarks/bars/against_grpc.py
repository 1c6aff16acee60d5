"""Throughput, latency, CPU and large bodies against grpcio's synchronous server: what most plugins by hand are."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.bars.bar import Bar, BarOutcome
from benchmarks.contenders import SYNC, broker_name, sync_and_broker
from benchmarks.driving import LoadCase, Server, h2load_case
from benchmarks.objects import answers, typical_post, upload
from benchmarks.rounds import Pace, Readings, interleave, ratios
from tykpy.bench.measure import MIB

WORKERS: Final = 2
OURS: Final = broker_name(WORKERS)
STREAMS: Final = 64
BODY_STREAMS: Final = 8
BODY_WARM_UP_CALLS: Final = 32

THROUGHPUT: Final = Bar("throughput", "requests/s, header edit, 64 streams, 2 workers, against grpcio sync", 8.0, True)
LATENCY: Final = Bar("latency", "median latency, 1 stream, against grpcio sync", 0.5, False)
CPU: Final = Bar("cpu", "CPU per dispatch, broker and workers, 64 streams, against grpcio sync", 55 / 400, False)
BODY: Final = Bar("body", "requests/s with bodies of 1 MiB, 8 streams, against grpcio sync", 5.0, True)
BARS: Final = (THROUGHPUT, LATENCY, CPU, BODY)


def measure(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure both servers, which run all the time."""
    with ExitStack() as stack:
        cases: list[LoadCase] = []
        for name, server in sync_and_broker(folder, WORKERS).items():
            stack.enter_context(server)
            cases += _cases(name, server, pace, folder)
        return _outcomes(interleave(cases, pace.rounds))


def _cases(name: str, server: Server, pace: Pace, folder: Path) -> list[LoadCase]:
    small, large = typical_post(), upload(MIB)
    return [
        *(
            h2load_case(f"{name}, {streams}", server, small, answers(small), folder, streams, pace.seconds)
            for streams in (1, STREAMS)
        ),
        h2load_case(
            f"{name}, 1 MiB", server, large, answers(large), folder, BODY_STREAMS, pace.seconds, 1, BODY_WARM_UP_CALLS
        ),
    ]


def _outcomes(found: Readings) -> list[BarOutcome]:
    def outcome(bar: Bar, load: str, figure: str, unit: str) -> BarOutcome:
        ours, theirs = f"{OURS}, {load}", f"{SYNC}, {load}"
        a, b = (f"{found.median(name, figure):,.0f}{unit}" for name in (ours, theirs))
        values = ratios(found.each(ours, figure), found.each(theirs, figure))
        return BarOutcome(bar, values, f"{a} against {b}", (found.point(theirs), found.point(ours)))

    cpu = outcome(CPU, str(STREAMS), "cpu_us", " us")
    broker_us = found.median(f"{OURS}, {STREAMS}", "broker_us")
    return [
        outcome(THROUGHPUT, str(STREAMS), "rate", "/s"),
        outcome(LATENCY, "1", "p50_us", " us"),
        replace(cpu, detail=f"{cpu.detail} (broker {broker_us:.1f} us)"),
        outcome(BODY, "1 MiB", "rate", "/s"),
    ]
