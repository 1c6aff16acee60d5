"""`wait` and `wait-async`: wait for 20 ms as for a database, in a thread or in a coroutine."""

import asyncio
import time

from tyk.decorators import Post
from tyk.request import TykRequest
from tyk.session import TykSession

WAIT_SECONDS = 0.02


@Post
def bench_wait(request: TykRequest, session: TykSession, spec: dict[str, str]) -> tuple[TykRequest, TykSession]:
    """Keeps a thread."""
    time.sleep(WAIT_SECONDS)
    request.add_header("X-Bench", "1")
    return request, session


@Post
async def bench_wait_async(
    request: TykRequest, session: TykSession, spec: dict[str, str]
) -> tuple[TykRequest, TykSession]:
    """Keeps nothing but a coroutine."""
    await asyncio.sleep(WAIT_SECONDS)
    request.add_header("X-Bench", "1")
    return request, session
