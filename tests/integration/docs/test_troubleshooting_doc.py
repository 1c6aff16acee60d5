"""docs/troubleshooting.md: its commands work, and its options, metrics and links exist."""

import os
import re
import subprocess
from pathlib import Path

from tests.support.broker import TYKPY, running_broker
from tests.support.hooks import SOURCE
from tests.support.root import ROOT
from tykpy.broker.config import flag_of, options
from tykpy.cli import main

DOCS = ROOT / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text()
COMMANDS = sorted(set(re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)))


def test_every_command_works(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        environment = {
            **os.environ,
            "TYKPY_RUNTIME_DIR": str(broker.runtime),
            "TYKPY_BUNDLES": str(broker.bundles),
            "TYKPY_LISTEN": f"unix://{tmp_path}/other.sock",
        }
        for command in COMMANDS:
            done = subprocess.run(
                command.replace("tykpy", TYKPY, 1).split(),
                env=environment, capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_every_option_and_command_exists() -> None:
    known = {flag_of(option.name) for option in options()}
    known |= {"--config", "--ready", "--once", "--load", "--for", "--pid"}  # of commands
    assert not set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - known
    assert set(re.findall(r"`tykpy ([a-z-]+)", PAGE)) <= set(main.commands)


def test_every_metric_and_reason_exists() -> None:
    metrics = (DOCS / "metrics.md").read_text()
    assert all(f"`{name}`" in metrics for name in re.findall(r"`(tykpy_\w+)`", PAGE))
    (table,) = re.findall(r"## Calls are refused\n.*?\n\n(\|.*?)\n\n", PAGE, re.DOTALL)
    reasons = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert reasons <= set(re.findall(r"^\| `(\w+)` \|", metrics, re.MULTILINE))


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        page, _, anchor = target.partition("#")
        text = (DOCS / page).read_text() if page else PAGE
        headings = [
            re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert not anchor or anchor in headings, target
