"""Type hints: mypy and pyright find each mistake of a sample plugin, and nothing else."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
SAMPLE = HERE / "sample_plugin.py.txt"
MISTAKES = {number for number, line in enumerate(SAMPLE.read_text().splitlines(), 1) if "# mistake" in line}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Return the sample as a Python file."""
    return Path(shutil.copy(SAMPLE, tmp_path / "sample_plugin.py"))


def run(*command: str | Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False
    ).stdout


def test_mypy_finds_the_mistakes(plugin: Path) -> None:
    pytest.importorskip("mypy")
    cache = REPOSITORY / ".mypy_cache" / "plugins"
    printed = run("mypy", "--strict", "--config-file=", "--no-error-summary", "--cache-dir", cache, plugin)
    found = re.findall(r"sample_plugin\.py:(\d+): error: ", printed)
    assert {int(line) for line in found} == MISTAKES, printed
    assert printed.count(": error:") == len(found), printed


def test_pyright_finds_the_mistakes(plugin: Path) -> None:
    pytest.importorskip("pyright")
    (plugin.parent / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(REPOSITORY)]})
    )
    report = json.loads(run("pyright", "--project", plugin.parent, "--outputjson"))
    found = [one for one in report["generalDiagnostics"] if one["severity"] == "error"]
    assert {one["range"]["start"]["line"] + 1 for one in found} == MISTAKES, report
