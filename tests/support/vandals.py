"""Hooks that damage the channel of their own process, and checks that the broker recovers."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tests.support.peers.neighbour import Footprint, Neighbour
from tykpy.broker.http2.limits import MIB
from tykpy.client.grpc import GrpcCallError

PRELUDE: Final = '''
import array, mmap, os, pkgutil, socket, struct, sys, tempfile, threading, time
from tyk.decorators import Pre

layout = pkgutil.resolve_name("tykpy.ipc.ring.layout")
HEADER = layout.HEADER_SIZE

def find():
    """Return this process's channel, and the number of the running request."""
    frame = sys._getframe()
    while not hasattr(frame.f_locals.get("request"), "seq"):
        frame = frame.f_back
    return frame.f_locals["channel"], frame.f_locals["request"].seq

def wait_for_the_end():
    while True:
        time.sleep(1)

def push(record_type, payload, times=1):
    """Publish records as answers to the running request, and ring for them."""
    channel, seq = find()
    for _ in range(times):
        channel._push(record_type, seq, 0, payload)
    channel._ring(times)
    wait_for_the_end()
'''
"""The start of a bundle."""
WORKERS: Final = 2
WHAT: Final = "wrote something that cannot be"
MOST_LEFT: Final = 16 * MIB


def broker_with_vandals(folder: Path, vandals: str) -> AbstractContextManager[RunningBroker]:
    """Run a broker with two workers, the usual hooks and a bundle `vandals`."""
    return running_broker(folder, workers=WORKERS, files={"hooks.py": SOURCE, "vandals.py": vandals})


def check_costs_itself(broker: RunningBroker, call: Callable[[], object], reason: str) -> Footprint:
    """Check that a call fails and its worker is replaced, while other calls are answered and nothing leaks.

    The log has one line with the reason.
    Return what the broker's process had before.
    """
    before, restarts, logged = Footprint(broker), broker.status()["restarts"], len(broker.log)
    with Neighbour(broker) as neighbour:
        with pytest.raises(GrpcCallError) as caught:
            call()
        assert caught.value.code.name == "INTERNAL"
        neighbour.wait_answered()
    wait_until(lambda: broker.status()["restarts"] == restarts + 1, lambda: str(broker.status()))
    wait_until(lambda: serving(broker) == WORKERS, lambda: str(broker.status()))
    (line,) = [line for line in broker.log[logged:].splitlines() if "ERROR" in line and WHAT in line]
    assert reason in line, line
    assert "Traceback" not in broker.log
    before.check_back(MOST_LEFT)
    return before


def serving(broker: RunningBroker) -> int:
    """Count the ready workers."""
    return sum(row["state"] == "ready" for row in broker.status()["workers"])
