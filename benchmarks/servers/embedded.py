"""Today's embedded driver, as far as Python goes: all of a gateway's hooks in one process under one lock.

There is no server to call: the gateway enters the interpreter through C with the object's bytes. What is measured is
this loop alone, so its figure is the most that the model can do, without the gateway's own cost of the crossing. One
call runs at a time however many wait for the lock, so it is the same for any number of streams.
"""

import threading
import time
from typing import NamedTuple

from benchmarks.servers.hook import add_header_to_bytes

BATCH = 1000
"""Calls between two looks at the clock."""


class EmbeddedResult(NamedTuple):
    """Calls per second, and CPU microseconds per call."""

    rate: float
    cpu_us: float


def measure(data: bytes, seconds: float) -> EmbeddedResult:
    """Run the hook under the lock for about `seconds`, at least `BATCH` times."""
    lock = threading.Lock()
    calls, elapsed = 0, 0.0
    start, cpu = time.perf_counter(), time.process_time()
    while not calls or elapsed < seconds:
        for _ in range(BATCH):
            with lock:
                add_header_to_bytes(data)
        calls += BATCH
        elapsed = time.perf_counter() - start
    return EmbeddedResult(calls / elapsed, (time.process_time() - cpu) / calls * 1e6)
