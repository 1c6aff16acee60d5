"""Type hints: mypy finds each mistake of a sample plugin, and nothing else."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
SAMPLE = HERE / "sample_plugin.py.txt"


def test_mypy_finds_the_mistakes(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    plugin = tmp_path / "sample_plugin.py"
    shutil.copy(SAMPLE, plugin)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    checked = subprocess.run(
        [*command, "--cache-dir", str(REPOSITORY / ".mypy_cache" / "plugins"), str(plugin)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    mistakes = {number for number, line in enumerate(SAMPLE.read_text().splitlines(), 1) if "# mistake" in line}
    found = re.findall(r"sample_plugin\.py:(\d+): error: ", checked.stdout)
    assert {int(line) for line in found} == mistakes, checked.stdout + checked.stderr
    assert checked.stdout.count(": error:") == len(found), checked.stdout
