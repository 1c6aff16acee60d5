"""Hooks that take time: one waits, one works."""

import time
from typing import Any

from tyk.decorators import Pre


@Pre
def wait_20ms(request: Any, session: Any, spec: Any) -> Any:
    """Wait as for a database."""
    time.sleep(0.020)
    request.add_header("X-Bench-1", "1")
    return request, session


@Pre
def cpu_2ms(request: Any, session: Any, spec: Any) -> Any:
    """Use 2 ms of CPU in this thread, whatever others take meanwhile."""
    end = time.thread_time_ns() + 2_000_000
    while time.thread_time_ns() < end:
        sum(range(100))
    request.add_header("X-Bench-1", "1")
    return request, session
