"""docs/events.md: its plugins load, its commands run, its consumer and receiver get the events."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import TYKPY, RunningBroker, running_broker
from tests.support.peers.redis_server import free_port, running_redis
from tests.support.root import ROOT

TEXT = (ROOT / "docs" / "events.md").read_text()
META = {"client": "ada", "left": 3}


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def block_with(language: str, text: str) -> str:
    (found,) = [block for block in blocks(language) if text in block]
    return found


COMMANDS = [line[2:] for block in blocks("console") for line in block.splitlines()]
PLUGINS = {"quota.py": block_with("python", "def watch_quota"), "auth.py": block_with("python", "def on_auth_failure")}


def command_with(text: str) -> str:
    (found,) = [command for command in COMMANDS if text in command]
    return found


def run(broker: RunningBroker, command: str) -> str:
    """Run a command as a user would, next to this broker."""
    path = f"{Path(TYKPY).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TYKPY_RUNTIME_DIR": str(broker.runtime)}
    done = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def broker_of(command: str, folder: Path, *replaced: tuple[str, str]) -> Iterator[RunningBroker]:
    """Run the broker of a command line, with the addresses of the test's own servers."""
    for old, new in replaced:
        assert old in command
        command = command.replace(old, new)
    program, name, bundles_flag, bundles, *flags = shlex.split(command)
    assert (program, name, bundles_flag, bundles) == ("tykpy", "broker", "--bundles", "bundles")
    with running_broker(folder, *flags, files=PLUGINS) as running:
        yield running


def test_every_command_is_executed_below() -> None:
    executed = (
        "--event-log",
        "--event-stream",
        "--event-webhook",
        "call watch_quota",
        "tykpy status --json",
        "--type Event",
    )
    assert [sum(part in command for part in executed) for command in COMMANDS] == [1] * len(executed)


def test_the_first_example(tmp_path: Path) -> None:
    with broker_of(command_with("--event-log"), tmp_path) as broker:
        run(broker, command_with("call watch_quota"))
        broker.wait_for_log("ada of API 1 has 3 left")
        broker.wait_for_log('"Type": "QuotaLow"')
        events = json.loads(run(broker, command_with("tykpy status --json")))["events"]
        assert (events["triggered"], events["log"]) == (1, {"delivered": 1})
        run(broker, command_with("--type Event"))
        broker.wait_for_log("AuthFailure at /a of API 1")
        line = next(line for line in broker.log.splitlines() if '"Type": "QuotaLow"' in line)
    logged = json.loads(line[line.index("{") :])
    shown = json.loads(block_with("json", "QuotaLow"))
    for document in (logged, shown):
        document["message"].pop("TimeStamp")
        document["triggered"].pop("id")
        document["spec"] = sorted(document["spec"])
    assert logged == shown


def test_the_redis_stream_and_its_consumer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    url = f"redis://localhost:{port}/0"
    source = block_with("python", "client.xread").replace("redis://localhost:6379/0", url)
    assert url in source
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder, port=port):
        with broker_of(command_with("--event-stream"), tmp_path, ("redis://localhost:6379/0", url)) as broker:
            run(broker, command_with("call watch_quota"))
            names: dict[str, Any] = {}
            exec(compile(source, "docs/events.md", "exec"), names)
            names["client"].close()
    assert capsys.readouterr().out == f"QuotaLow {META}\n"


def test_the_webhook_and_its_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *definitions, last = block_with("python", "HTTPServer").splitlines()
    assert last == "server.handle_request()"
    source = "\n".join(definitions).replace("9000", "0")
    printed = io.StringIO()
    names: dict[str, Any] = {"print": lambda *words: print(*words, file=printed)}
    exec(compile(source, "docs/events.md", "exec"), names)
    server: HTTPServer = names["server"]
    monkeypatch.setattr(names["Receiver"], "log_message", lambda *_arguments: None)
    with server:
        receiving = threading.Thread(target=server.handle_request)
        receiving.start()
        address = ("localhost:9000", f"localhost:{server.server_port}")
        with broker_of(command_with("--event-webhook"), tmp_path, address) as broker:
            run(broker, command_with("call watch_quota"))
            receiving.join(30)
            assert not receiving.is_alive()
    assert printed.getvalue() == f"QuotaLow {META}\n"
