"""A new program that never says that it serves."""

import asyncio
import sys

import psutil
import pytest

from broker.upgrade import Upgrade
from tests.support.broker import PATIENCE


def test_a_new_program_that_does_not_serve_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """With less than the 10 s that it gets besides."""
    monkeypatch.setattr("broker.upgrade.MARGIN", 0.0)
    monkeypatch.setattr("broker.upgrade.own_command", lambda: [sys.executable, "-c", "import signal; signal.pause()"])

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
