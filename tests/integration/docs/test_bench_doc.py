"""docs/bench.md: its commands run in order, and its tables are complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.broker import TYKPY, running_broker
from tests.support.root import ROOT
from tykpy.bench.limits import Bottleneck
from tykpy.bench.scenarios import BUILT_IN
from tykpy.bench.tables import COLUMNS

PAGE = (ROOT / "docs" / "bench.md").read_text()
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHORTER = "--seconds 0.15 --warm-up 0 --repeat 1"
BUNDLE = """
from tyk.decorators import Post

@Post
def my_hook(request, session, spec):
    request.add_header("X-Mine", "1")
    return request, session
"""


def test_every_command_runs(tmp_path: Path) -> None:
    (tmp_path / "my_bundle.py").write_text(BUNDLE)
    assert len(COMMANDS) == 6
    with running_broker(tmp_path, files={"my_bundle.py": BUNDLE}) as broker:
        path = os.pathsep.join([str(Path(TYKPY).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "RUNTIME_DIR": str(broker.runtime)}
        for command in COMMANDS:
            short = re.sub(r"^tykpy bench .*$", rf"\g<0> {SHORTER}", command, flags=re.MULTILINE)
            done = subprocess.run(
                short, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
                timeout=100, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}{done.stderr}"
            assert done.stdout
    assert (tmp_path / "before.html").exists()
    assert "What changed" in (tmp_path / "after.html").read_text()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_scenario_is_described(name: str) -> None:
    one = BUILT_IN[name]
    assert re.search(rf"^\| `{one.name}` \|.*\| {one.streams} \|$", PAGE, re.MULTILINE)


def test_every_limit_and_column_is_explained() -> None:
    for part in set(Bottleneck) - {Bottleneck.UNKNOWN}:
        assert f"\n| {part.value} |" in PAGE
    for column in COLUMNS[1:]:
        assert re.search(rf"^\|[^|]*\b{re.escape(column)}\b[^|]*\|", PAGE, re.MULTILINE), column
