"""Hooks whose cost is known, for the capacity formula."""

import time

from tyk.decorators import Post
from tyk.request import TykRequest
from tyk.session import TykSession

Result = tuple[TykRequest, TykSession]


def _work(microseconds: int) -> None:
    """Until this thread has used so much CPU, whatever others take meanwhile."""
    end = time.thread_time_ns() + microseconds * 1000
    while time.thread_time_ns() < end:
        sum(range(100))


def _marked(request: TykRequest, session: TykSession) -> Result:
    request.add_header("X-Bench", "1")
    return request, session


@Post
def header(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """The least that a hook does."""
    return _marked(request, session)


@Post
def cpu_500us(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """0.5 ms of CPU."""
    _work(500)
    return _marked(request, session)


@Post
def cpu_2ms(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """2 ms of CPU."""
    _work(2000)
    return _marked(request, session)


@Post
def wait_5ms(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Waits as for a database."""
    time.sleep(0.005)
    return _marked(request, session)


@Post
def wait_20ms(request: TykRequest, session: TykSession, spec: dict[str, str]) -> Result:
    """Waits four times as long."""
    time.sleep(0.020)
    return _marked(request, session)
