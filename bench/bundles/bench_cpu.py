"""`cpu`: needs 2 ms of a CPU, whatever the machine."""

import time

from tyk.decorators import Post
from tyk.request import TykRequest
from tyk.session import TykSession

CPU_NS = 2_000_000


@Post
def bench_cpu(request: TykRequest, session: TykSession, spec: dict[str, str]) -> tuple[TykRequest, TykSession]:
    """Works until its thread has used its CPU time."""
    end = time.thread_time_ns() + CPU_NS
    while time.thread_time_ns() < end:
        sum(range(100))
    request.add_header("X-Bench", "1")
    return request, session
