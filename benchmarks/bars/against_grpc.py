"""Throughput, latency, CPU and large bodies against grpcio's synchronous server: what most plugins by hand are."""

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.bars.bar import Bar, Outcome, ratios
from benchmarks.bars.driving import H2LoadCase
from benchmarks.bars.rounds import Pace, Readings, cpu_us, interleave, p50_us, rate
from benchmarks.contenders import SYNC, broker, broker_name, grpc_server
from benchmarks.objects import HEADER, HEADER_VALUE, typical_post, upload
from benchmarks.running import RunningServer
from tyk.proto.coprocess_object_pb2 import Object
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


def measure(pace: Pace, folder: Path) -> list[Outcome]:
    """Both servers are up all the time."""
    with ExitStack() as stack:
        servers = [grpc_server(folder, SYNC, "grpc_sync"), broker(folder, WORKERS)]
        for server in servers:
            stack.enter_context(server)
        cases = [case for server in servers for case in _cases(server, pace, folder)]
        return _outcomes(interleave(cases, pace.rounds))


def _cases(server: RunningServer, pace: Pace, folder: Path) -> list[H2LoadCase]:
    small = [_case(server, typical_post(), streams, pace, folder) for streams in (1, STREAMS)]
    large = _case(server, upload(MIB), BODY_STREAMS, pace, folder)
    large.name, large.warm_up_calls = f"{server.name}, 1 MiB", BODY_WARM_UP_CALLS
    return [*small, large]


def _case(server: RunningServer, item: Object, streams: int, pace: Pace, folder: Path) -> H2LoadCase:
    name, address = f"{server.name}, {streams}", f"unix://{server.socket}"
    return H2LoadCase(name, address, lambda: server.pids, item, _is_right, folder, streams, pace.seconds)


def _is_right(answer: Object) -> bool:
    return answer.request.set_headers[HEADER] == HEADER_VALUE


def _outcomes(found: Readings) -> list[Outcome]:
    ours, theirs = f"{OURS}, {STREAMS}", f"{SYNC}, {STREAMS}"
    ours_one, theirs_one = f"{OURS}, 1", f"{SYNC}, 1"
    ours_body, theirs_body = f"{OURS}, 1 MiB", f"{SYNC}, 1 MiB"
    points = (found.point(theirs), found.point(ours))
    return [
        Outcome(
            THROUGHPUT, ratios(found.each(ours, rate), found.each(theirs, rate)),
            f"{found.median(ours, rate):,.0f}/s against {found.median(theirs, rate):,.0f}/s", points,
        ),
        Outcome(
            LATENCY, ratios(found.each(ours_one, p50_us), found.each(theirs_one, p50_us)),
            f"{found.median(ours_one, p50_us):.0f} us against {found.median(theirs_one, p50_us):.0f} us",
            (found.point(theirs_one), found.point(ours_one)),
        ),
        Outcome(
            CPU, ratios(found.each(ours, cpu_us), found.each(theirs, cpu_us)),
            f"{found.median(ours, cpu_us):.1f} us (broker {found.point(ours).broker_us or 0.0:.1f} us) "
            f"against {found.median(theirs, cpu_us):.0f} us", points,
        ),
        Outcome(
            BODY, ratios(found.each(ours_body, rate), found.each(theirs_body, rate)),
            f"{found.median(ours_body, rate):,.0f}/s against {found.median(theirs_body, rate):,.0f}/s",
            (found.point(theirs_body), found.point(ours_body)),
        ),
    ]  # fmt: skip
