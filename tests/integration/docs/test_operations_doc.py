"""docs/operations.md: its commands, options and signals are executed, or looked up in the code."""

import json
import os
import re
import signal
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest

from tests.support.broker import TYKPY, running_broker
from tests.support.hooks import SOURCE
from tests.support.root import ROOT
from tykpy.broker.config import flag_of, options
from tykpy.broker.host.exits import ExitCode
from tykpy.ipc.exits import WorkerExit

PAGE = (ROOT / "docs" / "operations.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)


def test_every_command_works(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 4
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        for command in COMMANDS:
            done = subprocess.run(
                command.replace("tykpy", TYKPY, 1).split(),
                env={**os.environ, "TYKPY_RUNTIME_DIR": str(broker.runtime)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
        assert broker.status()["wanted"] == 3


def test_the_configuration_file_is_valid() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    jsonschema.validate(tomllib.loads(text), json.loads((ROOT / "docs" / "tykpy.schema.json").read_text()))


def test_every_option_exists() -> None:
    known = {flag_of(option.name) for option in options()} | {"--config", "--signal", "--kill-whom"}
    known |= {"--wide"}  # of `tykpy hooks`
    known |= {"--help", "--load", "--json"}  # of `tykpy check-config` and `tykpy config show`
    known |= {"--connect", "--tls-ca", "--tls-name"}  # of `tykpy call` and `tykpy bench`
    known |= {"--ready", "--service"}  # of `tykpy health`
    known |= {"--for", "--once"}  # of `tykpy log-level` and `tykpy top`
    known |= {"--install", "--values"}  # of Helm
    assert not set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - known


def test_the_exit_codes_are_all_there() -> None:
    (table,) = re.findall(r"## Exit codes\n\n(.*?)\n\n", PAGE, re.DOTALL)
    shown = {int(code) for code in re.findall(r"^\| (\d+) ", table, re.MULTILINE)}
    assert shown == {int(code) for code in (*ExitCode, *WorkerExit)}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(SIG[A-Z0-9]+)`", PAGE))))
def test_every_documented_signal_is_handled(tmp_path: Path, name: str) -> None:
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        status = Path(f"/proc/{broker.pid}/status").read_text()
    caught = int(re.findall(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)[0], 16)
    assert caught >> (signal.Signals[name] - 1) & 1
