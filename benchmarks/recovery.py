"""`python -m benchmarks.recovery`: how soon a caller learns that its worker was killed or hangs, and is served again.

The broker has one worker, so that nothing is served before there is another one. Times are the caller's own.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.h2load import percentile
from benchmarks.objects import DISPATCH_PATH
from benchmarks.recovery_bundle.middleware import HANGS, LIMIT_SECONDS
from benchmarks.reports import Findings, Table, parser, present
from tykpy.bench.errors import ServerError
from tykpy.bench.serving import OwnBroker
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object

BUNDLE: Final = Path(__file__).parent / "recovery_bundle"
KILLS: Final = 200
HANGS_EACH: Final = 25
CALL_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.0005
REST_SECONDS: Final = 0.1
"""Between two rounds, so that what one has set in motion is not measured with the next."""
HANG_GRACE: Final = "0.05"
COLUMNS: Final = ("", "rounds", "error p50", "error p99", "error max", "served p50", "served p99", "served max")


class Recovery(NamedTuple):
    """One round, in ms."""

    told: float
    """From the kill, or from the hook's limit, until its caller has the error."""
    served: float
    """From the kill, or from the error, until the next call is answered."""


class Caller:
    """One call in a thread of its own, so that it can be killed meanwhile."""

    def __init__(self, address: str, hook: str, entered: Path) -> None:
        self._address = address
        self._payload = payload(hook, entered)
        self._thread = threading.Thread(target=self._call)
        self.began = self.ended = 0.0
        self.error = ""
        self._thread.start()

    def wait(self) -> None:
        """Wait for the error; raises ServerError if there was none."""
        self._thread.join()
        if not self.error:
            raise ServerError("a call that had to fail was answered")

    def _call(self) -> None:
        with GrpcClient(self._address) as client:
            self.began = time.monotonic()
            try:
                client.call(DISPATCH_PATH, self._payload, CALL_SECONDS)
            except GrpcCallError as error:
                self.ended = time.monotonic()
                self.error = error.message


def payload(hook: str, entered: Path = Path("-")) -> bytes:
    """Return the call of a hook of our bundle."""
    headers = [("Entered", str(entered))]
    return build_object(CallDescription(hook, bundle=BUNDLE.name, headers=headers)).SerializeToString()


def answered(address: str) -> float:
    """Make a call that is answered as soon as there is a worker; return the time of the answer."""
    with GrpcClient(address) as client:
        client.call(DISPATCH_PATH, payload("answers"), CALL_SECONDS)
    return time.monotonic()


def killed(address: str, entered: Path) -> Recovery:
    """Kill the worker while it runs a hook."""
    caller = Caller(address, "waits", entered)
    while not entered.exists():
        time.sleep(POLL_SECONDS)
    start = time.monotonic()
    os.kill(int(entered.read_text()), signal.SIGKILL)
    caller.wait()
    return Recovery((caller.ended - start) * 1e3, (answered(address) - start) * 1e3)


def hung(address: str, entered: Path, hook: str) -> Recovery:
    """Call a hook that does not return."""
    caller = Caller(address, hook, entered)
    caller.wait()
    late = caller.ended - caller.began - LIMIT_SECONDS
    return Recovery(late * 1e3, (answered(address) - caller.ended) * 1e3)


def bare_end() -> float:
    """Kill a process that has only imported what a worker imports; return the ms until the kernel reports its end."""
    command = [sys.executable, "-c", "import tykpy.workers.__main__; print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pidfd = os.pidfd_open(process.pid)
        try:
            start = time.monotonic()
            process.kill()
            select.select([pidfd], [], [])
            return (time.monotonic() - start) * 1e3
        finally:
            os.close(pidfd)


def measure(kills: int, hangs: int) -> Findings:
    """Measure all rounds, and beside them how long the kernel alone takes to end a process."""
    os.environ["TYKPY_HANG_GRACE"] = HANG_GRACE
    bare: list[float] = []
    found: dict[str, list[Recovery]] = {"SIGKILL": []}
    with tempfile.TemporaryDirectory() as name, OwnBroker([BUNDLE], workers=1, threads=1, streams=1) as broker:
        marks = (Path(name) / str(number) for number in range(kills + 2 * hangs))

        def rest() -> None:
            answered(broker.address)
            time.sleep(REST_SECONDS)

        for _ in range(kills):
            rest()
            found["SIGKILL"].append(killed(broker.address, next(marks)))
            # In the same seconds, so that the rest of the machine's work affects both.
            bare.append(bare_end())
        for way in ("spins", "stops"):
            rows = found[f"hook {way}"] = []
            for number in range(hangs):
                rest()
                rows.append(hung(broker.address, next(marks), f"{way}_{number}"))
    cells = [
        (name, str(len(rows)), *_three([row.told for row in rows]), *_three([row.served for row in rows]))
        for name, rows in found.items()
    ]
    cells.append(("kernel alone", str(len(bare)), *_three(bare), "", "", ""))
    figures = {"rows": [dict(zip(COLUMNS, row, strict=True)) for row in cells]}
    return Findings([Table(COLUMNS, cells)], ["1 worker; all times in ms."], figures)


def _three(values: Sequence[float]) -> tuple[str, str, str]:
    ordered = sorted(values)
    return f"{percentile(ordered, 50):.2f}", f"{percentile(ordered, 99):.2f}", f"{ordered[-1]:.2f}"


def main() -> int:
    """Run the command line; return the exit code."""
    made = parser("benchmarks.recovery", __doc__, None)
    made.add_argument("--kills", type=int, default=KILLS)
    made.add_argument("--hangs", type=int, default=HANGS_EACH, help=f"of each kind, at most {HANGS}")
    arguments = made.parse_args()
    return present(arguments, lambda: measure(arguments.kills, min(arguments.hangs, HANGS)))


if __name__ == "__main__":
    sys.exit(main())
