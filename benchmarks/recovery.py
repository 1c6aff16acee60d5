"""`python -m benchmarks.recovery`: how soon a caller hears of a worker that was killed or hangs, and is served again.

A broker with one worker, so that nothing is served before there is another one. Times are the caller's own.
"""

import argparse
import os
import platform
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

from benchmarks.errors import ServerError
from benchmarks.h2load import percentile
from benchmarks.recovery_bundle.middleware import HANGS, LIMIT_SECONDS
from tykpy.bench.serving import OwnBroker
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object

BUNDLE: Final = Path(__file__).parent / "recovery_bundle"
METHOD: Final = "/coprocess.Dispatcher/Dispatch"
KILLS: Final = 200
HANGS_EACH: Final = 25
CALL_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.0005
SETTLING_SECONDS: Final = 0.1
"""Between two rounds: what the last one set in motion shall not be measured with the next."""
HANG_GRACE: Final = "0.05"


class Outcome(NamedTuple):
    """One round, in ms."""

    told: float
    """From the kill, or from the hook's limit, until its caller had the error."""
    served: float
    """From the kill, or from the error, until the next call was answered."""


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
        """Wait for the error; raises ServerError where there was none."""
        self._thread.join()
        if not self.error:
            raise ServerError("a call that had to fail was answered")

    def _call(self) -> None:
        with GrpcClient(self._address) as client:
            self.began = time.monotonic()
            try:
                client.call(METHOD, self._payload, CALL_SECONDS)
            except GrpcCallError as error:
                self.ended = time.monotonic()
                self.error = error.message


def payload(hook: str, entered: Path = Path("-")) -> bytes:
    """The call of a hook of our bundle."""
    headers = [("Entered", str(entered))]
    return build_object(CallDescription(hook, bundle=BUNDLE.name, headers=headers)).SerializeToString()


def answered(address: str) -> float:
    """Make a call that is answered as soon as a worker is there; returns when."""
    with GrpcClient(address) as client:
        client.call(METHOD, payload("answers"), CALL_SECONDS)
    return time.monotonic()


def killed(address: str, entered: Path) -> Outcome:
    """Kill the worker while it runs a hook."""
    caller = Caller(address, "waits", entered)
    while not entered.exists():
        time.sleep(POLL_SECONDS)
    start = time.monotonic()
    os.kill(int(entered.read_text()), signal.SIGKILL)
    caller.wait()
    return Outcome((caller.ended - start) * 1e3, (answered(address) - start) * 1e3)


def hung(address: str, entered: Path, hook: str) -> Outcome:
    """Call a hook that does not come back."""
    caller = Caller(address, hook, entered)
    caller.wait()
    late = caller.ended - caller.began - LIMIT_SECONDS
    return Outcome(late * 1e3, (answered(address) - caller.ended) * 1e3)


def bare_end() -> float:
    """Kill a process with what a worker imports, and nothing else of one; returns the ms until the kernel says so."""
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


def measure(kills: int, hangs: int, bare: list[float]) -> dict[str, list[Outcome]]:
    """All rounds, by what was done; `bare` gets what the kernel alone takes to end a process."""
    os.environ["TYKPY_HANG_GRACE"] = HANG_GRACE
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as name, OwnBroker([BUNDLE], workers=1, threads=1, streams=1) as broker:
        marks = (Path(name) / str(number) for number in range(kills + 2 * hangs))

        def settle() -> None:
            answered(broker.address)
            time.sleep(SETTLING_SECONDS)

        rows = outcomes["SIGKILL"] = []
        for _ in range(kills):
            settle()
            rows.append(killed(broker.address, next(marks)))
            # In the same seconds, so that what else the machine does is in both.
            bare.append(bare_end())
        for way in ("spins", "stops"):
            rows = outcomes[f"hook {way}"] = []
            for number in range(hangs):
                settle()
                rows.append(hung(broker.address, next(marks), f"{way}_{number}"))
    return outcomes


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """The results for people: ms."""
    lines = [
        f"{'':14} {'rounds':>6}   {'error p50':>9} {'p99':>7} {'max':>7}   {'served p50':>10} {'p99':>7} {'max':>7}"
    ]
    for name, rows in outcomes.items():
        told, served = ([row[index] for row in rows] for index in (0, 1))
        lines.append(f"{name:14} {len(rows):6}   {_three(told, 9)}   {_three(served, 10)}")
    return "\n".join(lines)


def _three(values: Sequence[float], width: int) -> str:
    ordered = sorted(values)
    return f"{percentile(ordered, 50):{width}.2f} {percentile(ordered, 99):7.2f} {ordered[-1]:7.2f}"


def main() -> None:
    """Run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--hangs", type=int, default=HANGS_EACH, help=f"of each kind, at most {HANGS}")
    options = parser.parse_args()
    bare: list[float] = []
    outcomes = measure(options.kills, min(options.hangs, HANGS), bare)
    print(
        f"1 worker, CPython {platform.python_version()}, {platform.system()} {platform.release()}; ms", file=sys.stderr
    )
    print(table(outcomes))
    print(f"{'kernel alone':14} {len(bare):6}   {_three(bare, 9)}")


if __name__ == "__main__":
    main()
