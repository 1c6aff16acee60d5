"""Connections that have shaken hands and then do nothing, as those of gateways at night."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tykpy.bench.load import connect, shake_hands
from tykpy.bench.wire import LoadConnection


@contextmanager
def idle_connections(address: str, count: int) -> Iterator[None]:
    """So many connections to the broker, until the end."""
    with ExitStack() as stack:
        for _ in range(count):
            dialled = connect(address)
            stack.enter_context(dialled.socket)
            shake_hands(dialled, LoadConnection([b""]))
        yield
