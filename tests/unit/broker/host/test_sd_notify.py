"""Messages to a service manager: none blocks, and the newest arrive."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tykpy.broker.host.sd_notify import MAX_UNSENT, ServiceNotifier


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        yield sock


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = ServiceNotifier(None)
    notifier.send("READY=1")
    notifier.close()


def test_a_message_is_one_datagram(receiver: socket.socket) -> None:
    notifier = ServiceNotifier(receiver.getsockname())
    notifier.send("READY=1", "STATUS=all well")
    assert receiver.recv(100) == b"READY=1\nSTATUS=all well"
    notifier.reloading()
    assert receiver.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notifier.close()


def test_a_manager_that_does_not_read_blocks_nothing(receiver: socket.socket) -> None:
    async def scenario() -> list[bytes]:
        notifier = ServiceNotifier(receiver.getsockname())
        sent = 2 * MAX_UNSENT
        for number in range(sent):
            notifier.send(str(number))
        received: list[bytes] = []
        while b"%d" % (sent - 1) not in received:
            received.append(await asyncio.to_thread(receiver.recv, 100))
        notifier.close()
        return received

    received = asyncio.run(scenario())
    numbers = [int(text) for text in received]
    assert numbers == sorted(numbers)
    assert MAX_UNSENT <= len(numbers) < 2 * MAX_UNSENT


def test_a_manager_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    notifier = ServiceNotifier(str(tmp_path / "nobody"))
    notifier.send("READY=1")
    notifier.send("READY=1")
    notifier.close()
