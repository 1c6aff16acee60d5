"""`python -m benchmarks.compare`: the broker beside the servers that a Tyk user could run instead, in one run.

Each serves the same hook on a Unix socket and is driven over one connection. All run all the time, and each is measured
in every round, so that a disturbance affects all of them; the tables show medians over the rounds.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import h2load, rpc_load
from benchmarks.contenders import SYNC, Contender, HookBroker, contenders
from benchmarks.driving import LoadCase, ask, bare_interpreter_mib, h2load_case
from benchmarks.objects import answers, request_bytes, typical_post
from benchmarks.reports import FIGURES, Findings, Table, figures, figures_dict, numbers, pace_of, parser, present, say
from benchmarks.rounds import Measurable, Pace, Reading, Readings, interleave
from benchmarks.servers import embedded
from tykpy.bench.measure import family, memory_mib

USUAL: Final = Pace(rounds=3, seconds=2.0)
EMBEDDED: Final = "embedded model"
EMBEDDED_NOTE: Final = (
    f"{EMBEDDED}: today's embedded driver, one process and one lock, without a server or the gateway's way into the "
    "interpreter: the most that it can do, at any number of streams and on any number of cores."
)
COLUMNS: Final = ("server", "streams", *FIGURES, "req/s : sync", "p50 : sync")
MEMORY_COLUMNS: Final = ("server", "processes", "idle front MiB", "idle per worker MiB", "after load MiB")


@dataclass(frozen=True, slots=True)
class EmbeddedCase:
    """The embedded driver's model, which is no server."""

    seconds: float
    name: str = EMBEDDED

    def warm_up(self) -> None:
        """Do nothing: the model runs in this process."""

    def measure(self) -> Reading:
        """Measure one round."""
        result = embedded.measure(request_bytes(), self.seconds)
        return Reading(result.rate, 0.0, result.cpu_us, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """PSS of one server in MiB: its first process and the sum of the others when idle, and all of them after load."""

    server: str
    processes: int
    idle_front: float
    idle_children: float
    after_load: float

    def cells(self) -> tuple[str, ...]:
        """Return the cells under `MEMORY_COLUMNS`."""
        children = self.processes - 1
        per_child = f"{self.idle_children / children:.1f}" if children else ""
        return self.server, str(self.processes), f"{self.idle_front:.1f}", per_child, f"{self.after_load:.1f}"


def compare(pace: Pace, workers: Sequence[int], streams: Sequence[int], *, grpc_only: bool) -> Findings:
    """Start all servers in a folder that is removed afterwards, and measure them."""
    h2load.find()
    with tempfile.TemporaryDirectory(prefix="tykpy-bench-") as folder, ExitStack() as stack:
        servers = contenders(Path(folder), workers)
        for name, server in servers.items():
            say(f"starting {name}")
            stack.enter_context(server)
        idle = {name: memory_mib(_all_pids(server)) for name, server in servers.items()}
        bare = bare_interpreter_mib()
        cases: list[Measurable[Reading]] = []
        for count in streams:
            cases += _cases(servers, count, Path(folder), pace.seconds, grpc_only=grpc_only)
        found = interleave([*cases, EmbeddedCase(pace.seconds)], pace.rounds)
        for server in servers.values():
            ask(server.address, typical_post(), answers(typical_post()))
        memory = [
            ServerMemory(name, len(used), used[0], sum(used[1:]), sum(memory_mib(_all_pids(servers[name]))))
            for name, used in idle.items()
        ]
    return findings(found, [case.name for case in cases], memory, bare)


def findings(found: Readings, names: Sequence[str], memory: Sequence[ServerMemory], bare_mib: float) -> Findings:
    """Make the tables; names of cases are `SERVER; STREAMS`."""
    rows = [dict(zip(("server", "streams"), name.split("; "), strict=True)) for name in names]
    cells = [
        (*row.values(), *figures(found, name), *_against_sync(found, row, names))
        for row, name in zip(rows, names, strict=True)
    ]
    inside = figures(found, EMBEDDED)
    cells.append((EMBEDDED, "any", *inside[:2], "", "", *inside[4:7], "", "", ""))
    return Findings(
        [Table(COLUMNS, cells), Table(MEMORY_COLUMNS, [one.cells() for one in memory])],
        [f"A bare interpreter has {bare_mib:.1f} MiB (PSS) beside them.", EMBEDDED_NOTE],
        {
            "rows": [row | figures_dict(found, name) for row, name in zip(rows, names, strict=True)],
            "memory": [{name: getattr(one, name) for name in ServerMemory.__slots__} for one in memory],
            "bare_interpreter_mib": bare_mib,
            "embedded": figures_dict(found, EMBEDDED),
        },
    )


def _against_sync(found: Readings, row: Mapping[str, str], names: Sequence[str]) -> tuple[str, str]:
    ours, sync = f"{row['server']}; {row['streams']}", f"{SYNC}; {row['streams']}"
    if sync not in names:
        return "", ""
    return f"{found.ratio(ours, sync, 'rate'):.2f}x", f"{found.ratio(ours, sync, 'p50_us'):.2f}x"


def _cases(
    servers: Mapping[str, Contender], streams: int, folder: Path, seconds: float, *, grpc_only: bool
) -> list[LoadCase]:
    item = typical_post()
    cases = []
    for name, server in servers.items():
        cases.append(h2load_case(f"{name}; {streams}", server, item, answers(item), folder, streams, seconds))
        if isinstance(server, HookBroker) and not grpc_only:
            run = partial(rpc_load.run, server.rpc_socket, streams=streams)
            cases.append(LoadCase(f"{name}, msgpack; {streams}", server.pids, run, streams, seconds))
    return cases


def _all_pids(server: Contender) -> list[int]:
    # The zygote's memory counts, although it does nothing.
    return family(server.pids()[0])


def _arguments() -> argparse.Namespace:
    made = parser("benchmarks.compare", __doc__, USUAL)
    made.add_argument("--workers", type=numbers, default=(1, 2, 4, 8), help="worker counts of the broker, e.g. 1,2,4,8")
    made.add_argument("--streams", type=numbers, default=(1, 8, 64), help="concurrent streams, e.g. 1,8,64")
    made.add_argument("--grpc-only", action="store_true", help="leave MessagePack-RPC out")
    made.add_argument("--install", action="store_true", help="install h2load with apt-get if it is missing, as root")
    return made.parse_args()


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _arguments()
    if arguments.install:
        h2load.install()
    pace = pace_of(arguments, USUAL)
    return present(
        arguments, lambda: compare(pace, arguments.workers, arguments.streams, grpc_only=arguments.grpc_only)
    )


if __name__ == "__main__":
    sys.exit(main())
