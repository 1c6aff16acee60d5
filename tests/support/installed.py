"""An environment where tykpy is as if it was installed, for type checkers: they judge by what is in site-packages."""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.support.root import ROOT


def installed(folder: Path) -> Path:
    """Make the environment in a new folder, and return its interpreter."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tykpy").mkdir()
    for part in (*(ROOT / "typings" / "tykpy").iterdir(), ROOT / "py.typed"):
        (site / "tykpy" / part.name).symlink_to(part.resolve())
    (site / "tyk").symlink_to(ROOT / "tyk")
    (site / "gateway").symlink_to(ROOT / "tyk" / "gateway")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def check_types(folder: Path, python: Path, *files: str) -> None:
    """Run mypy, and pyright in its strict mode, on a folder or on files in it.

    Raises AssertionError with what they find.
    """
    cache = ROOT / ".mypy_cache" / "installed"
    _run(folder, "mypy", "--strict", "--python-executable", python, "--cache-dir", cache, *(files or ["."]))
    settings = folder / "pyrightconfig.json"
    settings.write_text(json.dumps({"typeCheckingMode": "strict", "include": files or ["."]}))
    _run(folder, "pyright", "--pythonpath", python)
    settings.unlink()


def _run(folder: Path, *command: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
