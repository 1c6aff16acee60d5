"""deploy/systemd: the units are valid and hardened, and a broker works under what they forbid."""

import os
import re
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.support.accounts import needs_root
from tests.support.broker import TYKPY, RunningBroker, wait_until
from tests.support.deploy.hardened import hardened, settings
from tests.support.root import ROOT
from tykpy.broker.config import BrokerConfig, options
from tykpy.broker.host.exits import ExitCode

UNITS: Final = ROOT / "deploy" / "systemd"
UNIT: Final = UNITS / "tykpy.service"
TEMPLATE: Final = UNITS / "tykpy@.service"
BOTH: Final = pytest.mark.parametrize("unit", [UNIT, TEMPLATE], ids=lambda unit: unit.name)
MAX_EXPOSURE: Final = 3.0
"""systemd-analyze's sum of what a unit leaves open, from 0 to 10; "OK" is below 5."""
HOOKS: Final = """
import os, socket, subprocess
from tyk.decorators import Pre
from gateway import TykGateway as tyk

@Pre
def worker(request, session, spec):
    request.add_header("Worker", str(os.getpid()))
    return request, session

@Pre
def uses_much(request, session, spec):
    tyk.store_data("key", "value", 60)
    request.add_header("Stored", tyk.get_data("key"))
    request.add_header("Program", subprocess.run(["echo", "ran"], capture_output=True, text=True).stdout.strip())
    request.object.raw_body *= 2
    return request, session

@Pre
def oversteps(request, session, spec):
    for name, action in {
        "Root": lambda: open("/etc/tykpy-was-here", "w"),
        "Netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "Mount": lambda: os.chroot("/"),
    }.items():
        try:
            action()
        except OSError as error:
            request.add_header(name, type(error).__name__ + " " + str(error.errno))
    return request, session
"""


@pytest.fixture(autouse=True)
def needs_systemd() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: no systemd-analyze")


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@BOTH
def test_a_unit_leaves_little_exposed(unit: Path) -> None:
    report = analyze("security", "--offline=true", "--no-pager", unit)
    (exposure,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", report)
    assert float(exposure) < MAX_EXPOSURE


@BOTH
def test_systemd_understands_all_of_a_unit(unit: Path, tmp_path: Path) -> None:
    # It looks for the program and for the user.
    text = unit.read_text().replace("/usr/local/bin/tykpy", TYKPY).replace("=tyk\n", "=root\n")
    copy = tmp_path / unit.name
    copy.write_text(text)
    complaints = [line for line in analyze("verify", copy).splitlines() if copy.stem.rstrip("@") in line]
    assert not complaints


def test_the_template_is_the_unit_with_other_names() -> None:
    def plain(text: str) -> list[str]:
        same = text.replace("tykpy-%i", "tykpy").replace("/%i.", "/tykpy.").replace(" (%i)", "")
        return same[same.index("[Unit]") :].splitlines()

    assert plain(TEMPLATE.read_text()) == plain(UNIT.read_text())


def test_the_unit_starts_a_broker_with_known_options() -> None:
    service = settings(UNIT)
    known = {f"TYKPY_{option.name.upper()}" for option in options()} | {"TYKPY_CONFIG"}
    assert {value.partition("=")[0] for value in service["Environment"]} <= known
    assert service["Type"] == ["notify"]
    assert service["KillMode"] == ["mixed"]
    assert service["RestartPreventExitStatus"] == [str(int(ExitCode.USAGE))]
    assert set(tomllib.loads((UNITS / "tykpy.toml").read_text())) <= {option.name for option in options()}


def test_the_unit_gives_a_broker_enough_files_and_time() -> None:
    service, config = settings(UNIT), BrokerConfig()
    assert int(service["LimitNOFILE"][0]) >= config.max_connections + 32 * config.workers + 256
    assert float(service["TimeoutStopSec"][0]) > config.grace + config.event_grace
    assert float(service["TimeoutStartSec"][0]) > config.ready_timeout


def test_a_broker_works_under_what_the_unit_forbids(tmp_path: Path) -> None:
    needs_root()
    broker = RunningBroker(tmp_path)
    broker.add_file("hooks.py", HOOKS)
    broker.prefix = hardened(UNIT, broker.runtime)
    with broker:
        answer = broker.call("uses_much", bundle="hooks", body=b"x" * 1_000_000).request
        assert dict(answer.set_headers) == {"Stored": "value", "Program": "ran"}
        assert len(answer.raw_body) == 2_000_000

        refused = dict(broker.call("oversteps", bundle="hooks").request.set_headers)
        assert refused == {"Root": "OSError 30", "Netlink": "PermissionError 1", "Mount": "PermissionError 1"}

        first = int(broker.call("worker", bundle="hooks").request.set_headers["Worker"])
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: broker.status()["restarts"] == 1, lambda: broker.log)
        assert int(broker.call("worker", bundle="hooks").request.set_headers["Worker"]) != first

        reloaded = subprocess.run(
            [TYKPY, "reload", "--runtime-dir", str(broker.runtime)], capture_output=True, text=True, check=False
        )
        assert reloaded.returncode == 0, reloaded.stderr
    assert broker.wait() == 0
