"""Hooks that damage the channel of their own process, and checks that the broker recovers."""

from typing import Final

from tests.support.broker import RunningBroker, wait_until

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
'''
"""The start of a bundle."""
WHAT: Final = "wrote something that cannot be"


def check_replaced(broker: RunningBroker, reason: str, workers: int = 2) -> None:
    """Check that one worker was ended for this reason, with one line in the log, and was replaced."""
    wait_until(lambda: broker.status()["restarts"] == 1, lambda: str(broker.status()))
    wait_until(lambda: serving(broker) == workers, lambda: str(broker.status()))
    (line,) = [line for line in broker.log.splitlines() if "ERROR" in line and WHAT in line]
    assert reason in line, line
    assert "Traceback" not in broker.log


def serving(broker: RunningBroker) -> int:
    """Count the ready workers."""
    return sum(row["state"] == "ready" for row in broker.status()["workers"])
