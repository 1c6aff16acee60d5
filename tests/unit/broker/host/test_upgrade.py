"""A successor that never says that it serves, or cannot be started."""

import asyncio
import errno
import os
import sys

import psutil
import pytest

from tests.support.broker import PATIENCE
from tykpy.broker.host.upgrade import Upgrade


def test_a_new_program_that_does_not_serve_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the 10 s that it has in addition."""
    monkeypatch.setattr("tykpy.broker.host.upgrade.MARGIN", 0.0)
    monkeypatch.setattr(
        "tykpy.broker.host.upgrade.own_command", lambda: [sys.executable, "-c", "import signal; signal.pause()"]
    )

    async def upgrade() -> None:
        program = Upgrade(asyncio.get_running_loop(), 0.2, lambda _pid: pytest.fail("it has not said so"))
        program.start([], [])
        (successor,) = psutil.Process().children()
        async with asyncio.timeout(PATIENCE):
            while program.last is None:
                await asyncio.sleep(0.01)
        assert program.last == {"ok": False, "why": "the new program did not serve within 0.2 s; its log says more"}
        assert not successor.is_running()

    asyncio.run(upgrade())


def fail(*_arguments: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("cannot", ["pidfd_open", "pipe2", "add_reader"])
def test_a_new_program_that_cannot_be_watched_does_not_run(monkeypatch: pytest.MonkeyPatch, cannot: str) -> None:
    monkeypatch.setattr(
        "tykpy.broker.host.upgrade.own_command", lambda: [sys.executable, "-c", "import signal; signal.pause()"]
    )

    async def upgrade() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop if cannot == "add_reader" else os, cannot, fail)
        before = set(os.listdir("/proc/self/fd"))
        program = Upgrade(loop, 60.0, lambda _pid: pytest.fail("it has not said so"))
        program.start([], [])
        assert psutil.Process().children() == []
        assert program.last is not None
        assert "Too many open files" in program.last["why"]
        assert set(os.listdir("/proc/self/fd")) == before

    asyncio.run(upgrade())
