"""A broker that does not answer: `tykpy status` says how it was when it was last seen."""

import os
import re
import signal
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from tests.support.broker import RunningBroker, running_broker, stop_process, wait_until
from tykpy.commands import pool
from tykpy.commands.status import status
from tykpy.telemetry import live_segment, snapshot
from tykpy.telemetry.live_segment import read_live_snapshot

HOOK: Final = """
from tyk.decorators import Pre

@Pre
def hook(request, session, spec):
    return request, session
"""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(snapshot, "STUCK_SECONDS", 1.0)


def status_of(broker: RunningBroker) -> tuple[int, str]:
    """Exit code and output of `tykpy status`."""
    result = CliRunner().invoke(status, ["--runtime-dir", str(broker.runtime)])
    return result.exit_code, result.output


def wait_for_counters(broker: RunningBroker, answered: int) -> None:
    def are_there() -> bool:
        seen = read_live_snapshot(broker.runtime)
        return seen is not None and (seen.snapshot.dispatches["answered"], seen.snapshot.ready) == (
            answered,
            broker.workers,
        )

    wait_until(are_there, lambda: str(read_live_snapshot(broker.runtime)))


def segment_of(broker: RunningBroker) -> Path:
    return Path("/dev/shm") / live_segment._name_of(broker.runtime, os.geteuid()).lstrip("/")


def test_status_of_a_stopped_broker_tells_when_it_was_seen(tmp_path: Path) -> None:
    with running_broker(tmp_path, workers=2, files={"hooks.py": HOOK}) as broker:
        for _ in range(3):
            broker.call("hook", bundle="hooks.py")
        wait_for_counters(broker, answered=3)
        stop_process(broker.pid)
        try:
            wait_until(
                lambda: "the broker does not answer: its process is stopped" in status_of(broker)[1],
                lambda: status_of(broker)[1],
            )
            code, text = status_of(broker)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert code == 1
        assert re.search(
            rf"the broker does not answer: its process is stopped \(kill -CONT {broker.pid} lets it go on\); "
            rf"last seen [1-9]\d*\.\d s ago: pid {broker.pid}, 2 workers ready, "
            r"0 dispatches waiting, 0 under way; 3 taken, 3 answered, 0 failed; 0 workers restarted",
            text,
        ), text
        assert re.search(r"^state +does not answer; last seen ", text, re.MULTILINE), text
        assert re.search(r"^dispatches +3 taken, 3 answered$", text, re.MULTILINE), text
        wait_until(lambda: status_of(broker)[0] == 0, lambda: status_of(broker)[1])


def test_status_of_a_killed_broker_says_that_it_was_killed(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": HOOK}) as broker:
        wait_for_counters(broker, answered=0)
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait()
        code, text = status_of(broker)
        assert code == 1
        assert re.search(
            r"no broker answers: .*Connection refused; the last one was killed; last seen \d+\.\d s ago: pid ", text
        ), text


def test_the_next_broker_replaces_the_segment_of_a_killed_one(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": HOOK}) as broker:
        wait_for_counters(broker, answered=0)
        for _ in range(3):
            os.kill(broker.pid, signal.SIGKILL)
            broker.wait()
            broker.forget_status()
            broker.start().wait_ready()
            wait_until(lambda: status_of(broker)[0] == 0, lambda: status_of(broker)[1])
        wait_for_counters(broker, answered=0)
        seen = read_live_snapshot(broker.runtime)
        assert seen is not None
        assert seen.snapshot.pid == broker.pid
        broker.stop()
        assert not segment_of(broker).exists()


def test_a_folder_without_a_broker_has_no_counters(tmp_path: Path) -> None:
    result = CliRunner().invoke(status, ["--runtime-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "is --runtime-dir the broker's own?" in result.output
