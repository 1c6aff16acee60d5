"""A real worker of a real broker, killed at every named place of its loop: the outcome is the one that is promised.

Several calls are on their way when it happens. One of them is the one the worker is killed at; the others must be
answered as if nothing had been. The hooks write down that they run, before they do anything else.
"""

import concurrent.futures
import inspect
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support import kill_points
from tests.support.broker import RunningBroker
from tests.support.chaos import Journal
from tests.support.kill_points import ANSWERED, EXECUTING, MOVING, NOT_STARTED, RAN, UNDECODED
from tykpy.client.grpc import GrpcCallError
from tykpy.ipc.bodies.store import BORROW_FROM

HOOKS: Final = """
import sys
from tyk.decorators import Pre

journal = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def record(request):
    nonce = request.get_header("Nonce")
    os.write(journal, f"\\n{os.getpid()} {nonce} whole\\n".encode())
    reach("running")
    request.add_header("Nonce", nonce)
    request.add_header("X-Worker", str(os.getpid()))
    request.object.raw_body = request.object.raw_body

@Pre
def arms(request, session, spec):
    frame = sys._getframe()
    while frame.f_code.co_name != "_serve":
        frame = frame.f_back
    arm_worker(frame.f_locals["self"], request.get_header("Point"))
    request.add_header("X-Worker", str(os.getpid()))
    return request, session

@Pre
def blocking(request, session, spec):
    record(request)
    return request, session

@Pre
async def asynchronous(request, session, spec):
    record(request)
    return request, session

@Pre(idempotent=True)
def idempotent(request, session, spec):
    record(request)
    return request, session
"""
CALLS: Final = 3
SIZES: Final = (100, 70_000, BORROW_FROM)
"""Bytes of a body that fits a record, of one that does not, and of one that the worker borrows."""
ENTERED: Final = ("running", *RAN, "record half written", "before tail")
"""Where the hook has run, of the places at which its request executes."""
RUNNING: Final = (*EXECUTING, *UNDECODED, *RAN)


class Case(NamedTuple):
    """Which hook is called, and where its worker is killed."""

    hook: str
    point: str

    @property
    def calls(self) -> int:
        """How many are on their way; of those that run at the same time, the kill would cost several."""
        at_the_same_time = self.hook == "asynchronous" and self.point not in (*NOT_STARTED, *MOVING)
        return 1 if at_the_same_time else CALLS

    def __str__(self) -> str:
        return f"{self.hook}, {self.point}"


BLOCKING: Final = [Case("blocking", point) for point in (*NOT_STARTED, *RUNNING, *ANSWERED)]
IDEMPOTENT: Final = [Case("idempotent", point) for point in RUNNING]
# After the move, what is left is done on the event loop's thread; the claiming one is back at the doorbell by then.
ASYNCHRONOUS: Final = [
    Case("asynchronous", point) for point in (*NOT_STARTED, *MOVING, "running", "before tail", "after tail")
]


class Outcomes(NamedTuple):
    """What the callers of one kill heard."""

    workers: dict[str, str]
    """Who answered, by nonce."""
    errors: dict[str, str]


def kill_points_broker(folder: Path, journal: Journal) -> RunningBroker:
    broker = RunningBroker(folder, "--timeout", "60", env=journal.environment)
    broker.add_file("points.py", inspect.getsource(kill_points) + HOOKS)
    return broker


def kill_at(broker: RunningBroker, case: Case, name: str, size: int) -> tuple[str, Outcomes]:
    """Arm the worker, make the calls; returns its process, and what came of them."""
    armed = broker.call("arms", bundle="points", headers=[("Point", case.point)])
    workers: dict[str, str] = {}
    errors: dict[str, str] = {}

    def call(nonce: str) -> None:
        try:
            answer = broker.call(case.hook, bundle="points", headers=[("Nonce", nonce)], body=bytes(size))
        except GrpcCallError as error:
            errors[nonce] = error.message
            return
        assert answer.request.set_headers["Nonce"] == nonce
        assert len(answer.request.raw_body) == size
        workers[nonce] = answer.request.set_headers["X-Worker"]

    with concurrent.futures.ThreadPoolExecutor(case.calls) as callers:
        for running in [callers.submit(call, f"{name}.{number}") for number in range(case.calls)]:
            running.result()
    return armed.request.set_headers["X-Worker"], Outcomes(workers, errors)


def check(case: Case, killed: str, outcomes: Outcomes, runs: Counter[str]) -> None:
    """Hold the outcomes against the table in docs/reliability.md."""
    assert len(outcomes.workers) + len(outcomes.errors) == case.calls, case
    by_killed = sum(worker == killed for worker in outcomes.workers.values())
    assert by_killed == (case.point in ANSWERED or case.point == "after tail"), case
    if case.hook == "idempotent" or case.point in (*NOT_STARTED, *ANSWERED):
        assert not outcomes.errors, case
    else:
        (error,) = outcomes.errors.values()
        assert f"process {killed}) was ended by SIGKILL while it ran this hook ({case.hook})" in error, case
    check_runs(case, outcomes, runs)


def check_runs(case: Case, outcomes: Outcomes, runs: Counter[str]) -> None:
    entered = case.point in ENTERED
    answered = sorted(runs[nonce] for nonce in outcomes.workers)
    if case.hook == "idempotent" and entered:
        assert answered == [1] * (CALLS - 1) + [2], case
    else:
        assert answered == [1] * len(answered), case
    assert [runs[nonce] for nonce in outcomes.errors] == [entered] * len(outcomes.errors), case


def kill_at_each(folder: Path, cases: list[Case], kills: int) -> None:
    """Kill a worker at each of the places, with messages of each size in turn."""
    journal = Journal(folder / "journal")
    with kill_points_broker(folder, journal) as broker:
        for place, case in enumerate(cases):
            for number in range(kills):
                journal.path.write_bytes(b"")
                size = SIZES[(place + number) % len(SIZES)]
                killed, outcomes = kill_at(broker, case, f"{case.point.replace(' ', '-')}.{number}", size)
                check(case, killed, outcomes, journal.runs())
        broker.check_accounts()
        status = broker.status()
        print(f"{len(cases)} places, {status['restarts']} kills, {status['dispatches']}, deviations: 0")
        assert status["restarts"] == len(cases) * kills
        assert status["dispatches"]["late"] == 0


def test_a_worker_killed_at_each_place_of_its_loop(tmp_path: Path) -> None:
    assert len(BLOCKING) >= 14
    kill_at_each(tmp_path, BLOCKING, 1)


def test_an_idempotent_hook_whose_worker_is_killed_is_run_again(tmp_path: Path) -> None:
    kill_at_each(tmp_path, IDEMPOTENT, 1)


def test_a_worker_killed_while_an_async_hook_changes_threads(tmp_path: Path) -> None:
    """Kill a worker while it moves a call from the claiming thread to the event loop."""
    kill_at_each(tmp_path, ASYNCHRONOUS, 1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cases", [BLOCKING, ASYNCHRONOUS, IDEMPOTENT], ids=lambda cases: cases[0].hook)
def test_100_kills_at_each_place(tmp_path: Path, cases: list[Case]) -> None:
    kill_at_each(tmp_path, cases, 100)
