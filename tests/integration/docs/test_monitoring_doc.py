"""docs/alerts.md and docs/monitoring.md: their commands are executed, and what they name is looked up."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.support.broker import TYKPY, running_broker
from tests.support.hooks import SOURCE
from tests.support.peers.redis_server import free_port
from tests.support.root import ROOT
from tykpy.broker.codes import GrpcCode
from tykpy.broker.config import flag_of, options

ALERTS: Final = (ROOT / "docs" / "alerts.md").read_text()
MONITORING: Final = (ROOT / "docs" / "monitoring.md").read_text()
RULES: Final = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
PORT: Final = "9464"
COMMANDS: Final = re.findall(r"^\$ (.*)$", ALERTS + MONITORING, re.MULTILINE)
SCRAPE_CONFIGS: Final = re.findall(r"```yaml\n(.*?)```", MONITORING, re.DOTALL)


def test_every_command_works(tmp_path: Path) -> None:
    port = str(free_port())
    assert len(COMMANDS) >= 8
    with running_broker(tmp_path, "--metrics", f"tcp://127.0.0.1:{port}", files={"hooks.py": SOURCE}) as broker:
        for command in COMMANDS:
            program, *arguments = command.replace(PORT, port).split()
            if program != "tykpy" and shutil.which(program) is None:
                continue
            done = subprocess.run(
                [TYKPY if program == "tykpy" else program, *arguments],
                cwd=ROOT,
                env={**os.environ, "TYKPY_RUNTIME_DIR": str(broker.runtime)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            assert done.stdout or done.stderr, command


def test_every_option_and_code_exists() -> None:
    known = {flag_of(option.name) for option in options()}
    known |= {"--config", "--runtime-dir", "--load", "--ready", "--for"}
    text = re.sub(r"`(kubectl|journalctl) .*?`", "", ALERTS + MONITORING)
    assert not set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known
    codes = re.findall(r"^\| ([A-Z_]+)\b", ALERTS, re.MULTILINE)
    assert len(codes) >= 5
    assert set(codes) <= set(GrpcCode.__members__)


def test_the_table_of_alerts_is_complete() -> None:
    severities = {
        rule["alert"]: rule["labels"]["severity"]
        for group in RULES["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert dict(re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", ALERTS, re.MULTILINE)) == severities


def test_every_panel_that_is_named_exists() -> None:
    dashboard = (ROOT / "deploy" / "grafana" / "tykpy.json").read_text()
    panels = re.findall(r'panels? "(\w[^"]*?)"', " ".join(ALERTS.split()))
    assert len(panels) >= 5
    for panel in panels:
        assert f'"title": "{panel}"' in dashboard


@pytest.mark.parametrize("config", SCRAPE_CONFIGS)
def test_the_scrape_configurations_are_valid(tmp_path: Path, config: str) -> None:
    assert [job["job_name"] for job in yaml.safe_load(config)["scrape_configs"]] == ["tykpy"]
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    file = tmp_path / "prometheus.yml"
    # Debian builds promtool without the discovery of Kubernetes; the rest of that configuration is checked.
    file.write_text(config.replace("kubernetes_sd_configs:\n      - role: pod\n", "static_configs: []\n"))
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
