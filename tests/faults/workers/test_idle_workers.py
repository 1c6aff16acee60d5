"""Workers that live but take no calls are replaced; a bundle that makes every worker so is disabled."""

import concurrent.futures
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tykpy.client.grpc import GrpcCallError

FLAGS: Final = ("--hang-grace", "0.1")
NEIGHBOUR: Final = """
import os
from tyk.decorators import Pre

@Pre
def works(request, session, spec):
    request.add_header("X-Worker", str(os.getpid()))
    return request, session
"""
HOLD: Final = """
import sys, threading
from tyk.decorators import Pre

def hold():
    '''Keep this worker from claiming anything from now on.'''
    frame = sys._getframe()
    while type(frame.f_locals.get("channel")).__name__ != "WorkerChannel":
        frame = frame.f_back
    channel = frame.f_locals["channel"]
    channel._take = threading.Event().wait
    return channel
"""
HOLDS_WHEN_LOADED: Final = (
    HOLD
    + """
@Pre
def mine(request, session, spec):
    return request, session

held = hold()
"""
)
REPLACES_AND_HOLDS: Final = (
    HOLDS_WHEN_LOADED
    + """
import select

def patched(*arguments):
    return real(*arguments)

real, select.select = select.select, patched
"""
)
STEALS: Final = (
    REPLACES_AND_HOLDS
    + """
import os, threading

def steal(reader):
    while os.read(reader, 1):
        pass

threading.Thread(target=steal, args=(held._parts.requests._reader,), daemon=True).start()
"""
)
"""What the broker has given away can then not be taken back."""
HOLDS_WHEN_CALLED: Final = """
@Pre
def holds(request, session, spec):
    hold()
    return request, session
"""


def worker_of(broker: RunningBroker) -> str:
    """Call the neighbour; return which worker ran it."""
    return broker.call("works", bundle="neighbour").request.set_headers["X-Worker"]


@pytest.mark.parametrize(
    ("workers", "bundle"),
    [(1, REPLACES_AND_HOLDS), (2, REPLACES_AND_HOLDS), (1, STEALS)],
    ids=["one worker", "two workers", "claims that nobody runs"],
)
def test_a_bundle_that_replaced_something_is_disabled(tmp_path: Path, workers: int, bundle: str) -> None:
    files = {"neighbour.py": NEIGHBOUR, "bundle.py": bundle}
    with running_broker(tmp_path, *FLAGS, workers=workers, files=files) as broker:
        with concurrent.futures.ThreadPoolExecutor(4) as callers:
            calls = [callers.submit(worker_of, broker) for _ in range(4)]
            assert all(call.result() for call in calls)
        broker.wait_for_log(
            "bundle bundle.py is disabled until its files change or tykpy reload: it replaced select.select"
        )
        assert "starts nothing of what it is given; it is replaced" in broker.log
        broker.wait_for_log("in claim")  # its stacks
        with pytest.raises(GrpcCallError, match="take no dispatches"):
            broker.call("mine", bundle="bundle")
        assert worker_of(broker)


def test_idle_workers_without_a_suspect_are_backed_off(tmp_path: Path) -> None:
    files = {"neighbour.py": NEIGHBOUR, "bundle.py": HOLDS_WHEN_LOADED}
    with running_broker(tmp_path, *FLAGS, files=files) as broker:
        with concurrent.futures.ThreadPoolExecutor(1) as callers:
            call = callers.submit(worker_of, broker)
            broker.wait_for_log("which of their bundles does that is not known")
            broker.wait_for_log("next try in")
            # Whoever operates it takes the bundle away.
            (tmp_path / "bundles" / "bundle.py").unlink()
            with broker.admin() as client:
                client.call("reload")
            assert call.exception() is None or "deadline" in str(call.exception())
        assert worker_of(broker)


def test_the_only_bundle_is_blamed(tmp_path: Path) -> None:
    with running_broker(tmp_path, *FLAGS, files={"bundle.py": HOLDS_WHEN_LOADED}) as broker:
        with pytest.raises(GrpcCallError, match="it is the only one"):
            broker.call("mine", bundle="bundle")


def test_a_worker_that_stops_claiming_later_is_replaced(tmp_path: Path) -> None:
    files = {"neighbour.py": NEIGHBOUR, "bundle.py": HOLD + HOLDS_WHEN_CALLED}
    with running_broker(tmp_path, *FLAGS, files=files) as broker:
        for _ in range(2):
            before = worker_of(broker)
            broker.call("holds", bundle="bundle")
            assert worker_of(broker) != before
        assert "is disabled" not in broker.log
        wait_until(lambda: len(broker.status()["workers"]) == 1, lambda: str(broker.status()))
