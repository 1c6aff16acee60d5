"""docs/bundles.md: its commands print what the page shows, and its tables are complete."""

import json
import os
import re
import shlex
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import PATIENCE, TYKPY, RunningBroker, running_broker
from tests.support.root import ROOT
from tykpy.workers.dispatch import sampled_checks

PAGE = ROOT / "docs" / "bundles.md"
FILES = [
    "mine/manifest.json",
    "mine/middleware.py",
    "shop/manifest.json",
    "shop/middleware.py",
    "old/middleware.py",
    "typo.py",
]
"""The files in the page's blocks of JSON and Python, in order."""
OLD_MANIFEST = '{"file_list": ["middleware.py"], "custom_middleware": {"driver": "python", "pre": [{"name": "count"}]}}'


def blocks(*languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each command with its output."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *printed = part.splitlines()
            yield command, printed


class Shell:
    """Runs the page's commands in one folder; a broker keeps running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker: RunningBroker | None = None

    def run(self, command: str) -> list[str]:
        words = shlex.split(command)
        if words[:2] == ["tykpy", "broker"]:
            self.broker = running_broker_with(self.folder, words[2:])
            return []
        env = {**os.environ, "PATH": f"{Path(TYKPY).parent}:{os.environ['PATH']}"}
        if self.broker is not None:
            env["TYKPY_RUNTIME_DIR"] = str(self.broker.runtime)
        done = subprocess.run(
            words, cwd=self.folder, env=env, text=True, timeout=PATIENCE, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.stdout.splitlines()

    def close(self) -> None:
        if self.broker is not None:
            self.broker.__exit__(None, None, None)


def running_broker_with(folder: Path, flags: list[str]) -> RunningBroker:
    """Start the page's broker from another folder, so that files are named by absolute paths."""
    assert flags[:2] == ["--bundles", "bundles"]
    whole = [str(folder / flag) if (folder / flag).exists() else flag for flag in flags[2:]]
    return RunningBroker(folder, *whole).__enter__()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Return a shell in a folder with the page's files."""
    for name, text in zip(FILES, blocks("json", "python"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "old" / "manifest.json").write_text(OLD_MANIFEST)
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def test_every_command_prints_what_the_page_shows(shell: Shell) -> None:
    ran = 0
    for command, printed in commands():
        pattern = "\n".join(".*".join(map(re.escape, line.split("..."))) for line in printed)
        output = "\n".join(shell.run(command))
        assert re.fullmatch(pattern, output), f"$ {command}\n{output}"
        ran += 1
    assert ran > 12


def test_the_entry_of_a_chain_is_the_one_on_the_page(shell: Shell) -> None:
    shown, _ = blocks("text")
    shell.run("tykpy bundle build shop --chain")
    with zipfile.ZipFile(shell.folder / "shop.zip") as opened:
        manifest = json.loads(opened.read("manifest.json"))
    assert json.loads(f"{{{shown}}}")["pre"] == manifest["custom_middleware"]["pre"]


def test_numbers_of_checked_calls_are_those_of_the_code() -> None:
    text = f"first {sampled_checks.FIRST_CALLS} calls of each hook, and then at one in {sampled_checks.LATER_CALLS}"
    assert text in PAGE.read_text()
    assert sampled_checks.REPEAT_AFTER_S == 600


def test_the_line_in_the_log_is_the_one_on_the_page(tmp_path: Path) -> None:
    *_, shown = blocks("text")
    with running_broker(tmp_path, files={"typo.py": blocks("python")[-1]}) as broker:
        broker.call("shout", bundle="typo", body=b"quiet")
        broker.wait_for_log(shown.split("(")[0].strip().partition("tykpy.worker: ")[2])
        assert f"{broker.bundles}/typo.py:" in broker.log
