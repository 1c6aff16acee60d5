"""`tykpy log-level`: another level for a while, in broker and workers, also in workers that start meanwhile."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tykpy.broker.errors import RpcError

SOURCE: Final = """
import logging
from tyk.decorators import Hook


@Hook
def says(request, session, spec):
    tag = request.get_header("Tag")
    logging.getLogger("mine").debug("detail %s", tag)
    logging.getLogger("mine").info("said %s", tag)
    return request, session
"""


def command(broker: RunningBroker, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TYKPY, "log-level", *arguments, "--runtime-dir", str(broker.runtime)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def is_detailed(broker: RunningBroker, tag: str) -> bool:
    """Return whether workers log at level debug."""
    broker.call("says", headers=[("Tag", tag)])
    broker.wait_for_log(f"said {tag}")
    return f"detail {tag}" in broker.log


def test_the_level_changes_and_returns_by_itself(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": SOURCE}) as broker:
        assert not is_detailed(broker, "before")
        assert broker.status()["log"] == {"level": "info", "seconds_left": None, "file": ""}
        done = command(broker, "debug", "--for", "1h")
        assert (done.returncode, done.stdout) == (0, "the log level is debug for 1h\n")
        wait_until(lambda: is_detailed(broker, "during"), lambda: broker.log)
        status = broker.status()["log"]
        assert status["level"] == "debug"
        assert 0 < status["seconds_left"] <= 3_600
        os.kill(broker.status()["workers"][0]["pid"], signal.SIGKILL)
        broker.wait_for_status(lambda text: "1 of 1 workers ready" in text)
        assert is_detailed(broker, "new worker")
        # Who asked is gone, and the broker brings the level back.
        assert command(broker, "debug", "--for", "100ms").returncode == 0
        wait_until(lambda: broker.status()["log"]["level"] == "info", lambda: broker.log)
        tags = iter(range(10_000))
        wait_until(lambda: not is_detailed(broker, f"after {next(tags)}"), lambda: broker.log)


@pytest.mark.parametrize(
    ("arguments", "code", "said"), [(("loud",), 2, "is not one of"), (("debug", "--for", "2d"), 1, "at most 1d")]
)
def test_wrong_levels_and_times_are_refused(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    with running_broker(tmp_path, files={"mine.py": SOURCE}) as broker:
        done = command(broker, *arguments)
        assert done.returncode == code
        assert said in done.stderr
        with broker.admin() as client, pytest.raises(RpcError, match="takes a level"):
            client.call("log_level", "debug")
