"""Passwords in URLs appear nowhere: not in the process list, workers' environments, log, status or messages."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, wait_until
from tykpy.cli import main

MARKER = "Tr0ub4dor"
HOOKS = """
import os
from tyk.decorators import Pre
from gateway import TykGateway as tyk

@Pre
def uses_all(request, session, spec):
    tyk.store_data("key", "value", 60)
    tyk.get_data("key")
    tyk.trigger_event("Happened", '{"a": 1}')
    request.add_header("Environment", repr(dict(os.environ)))
    return request, session

@Pre
def fails(request, session, spec):
    raise ValueError(str(dict(os.environ)))
"""
# Nobody listens on port 1, so that every use of these URLs logs an error.
REDIS = f"redis://user:{MARKER}@127.0.0.1:1/0"
WEBHOOK = f"http://me:{MARKER}@127.0.0.1:1/hook-{MARKER}?token={MARKER}"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TYKPY, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def command_here(*arguments: str, **environment: str) -> str:
    """Run a command in this process, which is much faster; return all that it prints."""
    return CliRunner(env=environment).invoke(main, arguments).output


def command_lines() -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            yield " ".join([process.name(), *process.cmdline()])
        except psutil.NoSuchProcess:
            continue


def everything_shown(broker: RunningBroker) -> str:
    """Return all that other users could read of a broker: not its environment, which only it and root can read."""
    pid = broker.status()["pid"]
    workers = psutil.Process(pid).children(recursive=True)
    assert workers
    commands = [["status"], ["hooks"], ["stacks"], ["status", "--json"], ["hooks", "--json"]]
    said = [command_here(*one, "--runtime-dir", str(broker.runtime)) for one in commands]
    assert all(said)
    return "\n".join(
        [
            *command_lines(),
            *(str(worker.environ()) for worker in workers),
            *said,
            broker.log,
        ]
    )


@pytest.fixture(params=["environment", "file"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker with every kind of secret, from the environment or from a file."""
    in_environment = request.param == "environment"
    environment = {"TYKPY_REDIS": REDIS, "TYKPY_EVENT_WEBHOOK": WEBHOOK} if in_environment else {}
    running = RunningBroker(tmp_path, "--log-level", "debug", env=environment)
    running.add_flags("--event-stream", "events", "--event-log", "--event-grace", "0")
    if not in_environment:
        (tmp_path / "tykpy.toml").write_text(f'redis = "{REDIS}"\nevent-webhook = "{WEBHOOK}"\n')
        running.add_flags("--config", str(tmp_path / "tykpy.toml"))
    running.add_file("hooks.py", HOOKS)
    with running:
        yield running


def test_secrets_are_shown_nowhere(broker: RunningBroker) -> None:
    answer = broker.call("uses_all", bundle="hooks").request.set_headers["Environment"]
    assert MARKER not in answer
    assert "TYKPY_" not in answer
    with pytest.raises(Exception, match="ValueError") as caught:
        broker.call("fails", bundle="hooks")
    assert MARKER not in str(caught.value)
    for failure in (
        "Redis at redis://***@127.0.0.1:1/0 does not answer",
        "Redis stream 'events' at redis://***@127.0.0.1:1/0",
        "webhook http://127.0.0.1:1/...",
    ):
        broker.wait_for_log(failure)
    assert MARKER not in everything_shown(broker)


def test_a_secret_stays_unseen_after_an_upgrade_and_a_reload(broker: RunningBroker) -> None:
    os.kill(broker.pid, signal.SIGUSR2)
    assert broker.wait() == 0
    successor = psutil.Process(broker.status()["pid"])
    try:
        assert command("reload", "--runtime-dir", str(broker.runtime)).returncode == 0
        broker.call("uses_all", bundle="hooks")
        assert MARKER not in everything_shown(broker)
    finally:
        successor.terminate()
        successor.wait(PATIENCE)


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_secret_on_the_command_line_causes_a_warning(tmp_path: Path, by: str) -> None:
    """Neither the warning nor the log shows the secret."""
    urls = {"--redis": REDIS, "--event-webhook": WEBHOOK}
    flags = [word for pair in urls.items() for word in pair] if by == "flag" else []
    environment = {} if by == "flag" else {"TYKPY_REDIS": REDIS, "TYKPY_EVENT_WEBHOOK": WEBHOOK}
    done = command("check-config", "--runtime-dir", str(tmp_path / "run"), *flags, **environment)
    for flag, variable in (("--redis", "TYKPY_REDIS"), ("--event-webhook", "TYKPY_EVENT_WEBHOOK")):
        warned = f"{flag} shows a secret to every user of this machine: give it as {variable}" in done.stderr
        assert warned is (by == "flag")
    assert MARKER not in done.stdout + done.stderr
    broker = RunningBroker(tmp_path, *flags, env=environment)
    with broker:
        assert ("shows a secret" in broker.log) is (by == "flag")
        assert MARKER not in broker.log


def test_a_url_without_a_secret_may_stand_anywhere(tmp_path: Path) -> None:
    done = command("check-config", "--runtime-dir", str(tmp_path / "run"), "--redis", "redis://localhost/3")
    assert "redis://localhost/3" in done.stdout
    assert "warning" not in done.stderr


@pytest.mark.parametrize("stream", [[], ["--event-stream", "events"]])
@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{MARKER}/ss@localhost/0",
        f"redis://:pass#{MARKER}@localhost/0",
        f"redis://:pass?{MARKER}@localhost/0",
        f"redis://:{MARKER}@localhost:port/0",
        f"redis://localhost?password={MARKER}&unknown=1",
        f"redis://localhost?password=a@{MARKER}",
        f"unknown://:{MARKER}@localhost",
        MARKER,
    ],
)
def test_a_url_that_is_wrong_is_not_repeated(tmp_path: Path, url: str, stream: list[str]) -> None:
    flags = ["--runtime-dir", str(tmp_path / "run"), *stream]
    done = command("broker", *flags, "--ready-timeout", "20", TYKPY_REDIS=url)
    for said in (command_here("check-config", *flags, TYKPY_REDIS=url), done.stdout + done.stderr):
        assert MARKER not in said
        assert "redis" in said
    assert done.returncode in (2, 3), done.stderr


def test_the_holder_of_an_address_is_named_without_its_secrets(tmp_path: Path) -> None:
    with RunningBroker(tmp_path, "--redis", REDIS, "--event-webhook", WEBHOOK) as broker:
        done = command("broker", "--runtime-dir", str(broker.runtime))
        assert f"in use by process {broker.pid} (" in done.stderr
        assert MARKER not in done.stderr
        wait_until(lambda: broker.status()["wanted"] == 1, lambda: broker.log)
