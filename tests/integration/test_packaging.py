"""The installed packages: the whole tree, and no top-level name but `tykpy`, `tyk` and `gateway`."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from docker.utils import exclude_paths

from tests.support.root import ROOT

NOT_INSTALLED = {"benchmarks", "deploy", "docs", "examples", "scripts", "tests", "typings", ".ci"}
FILES_OF_TYKPY = {"cli.py", "__main__.py", "py.typed"}
EVERYDAY_NAMES = ("broker", "commands", "ipc", "workers")
OF_EXTRAS = ("cryptography", "psutil", "rich")
BREAKS = "raise SystemExit('this module is somebody else\\'s')\n"


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checked_in() -> list[Path]:
    """Return every file that git tracks or would add."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return [Path(name) for name in listed if (ROOT / name).exists()]


def program_files() -> set[Path]:
    """Return the files that the wheel must install."""
    inside = {path for path in checked_in() if path.parts[0] not in NOT_INSTALLED and len(path.parts) > 1}
    linked = {path for path in inside if (ROOT / path).is_dir()}
    behind = {path / file.name for path in linked for file in (ROOT / path).iterdir()}
    return inside - linked | behind | {Path(name) for name in FILES_OF_TYKPY}


def installed_as(path: Path) -> set[str]:
    if path.parts[:2] == ("tyk", "gateway"):
        return {str(path), str(path.relative_to("tyk"))}
    return {str(path if path.parts[0] == "tyk" else "tykpy" / path)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this tree, and the wheel built from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for path in checked_in():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path, follow_symlinks=(ROOT / path).is_file())
    run(sys.executable, "-m", "build", "--outdir", out, source, cwd=source)
    return out


def test_the_wheel_has_the_whole_tree_alone(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set[str]().union(*map(installed_as, program_files()))
    assert {name.partition("/")[0] for name in names} == {"tykpy", "tyk", "gateway"}


def test_the_sdist_has_the_whole_tree(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(path) for path in program_files()} <= names


def test_the_builder_of_the_image_gets_every_package() -> None:
    names = exclude_paths(str(ROOT), (ROOT / ".dockerignore").read_text().splitlines())
    missing = {str((ROOT / path).resolve().relative_to(ROOT)) for path in program_files()} - set(names)
    assert not missing


def test_the_demo_runs_beside_packages_of_everyday_names(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    # Makes tykpy's dependencies importable, but not this checkout: a .pth file in a folder added like this is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for name in EVERYDAY_NAMES:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(BREAKS)
    users = tmp_path / "users"
    users.mkdir()
    for name in ("cli", "client", "bench", *EVERYDAY_NAMES, *OF_EXTRAS):
        (users / f"{name}.py").write_text(BREAKS)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    said = run(python, "-m", "examples.demo", cwd=tmp_path, PYTHONPATH=str(users))
    assert "all calls did what the bundle says" in said
    assert run(python, "-m", "tykpy", "--version", cwd=tmp_path, PYTHONPATH=str(users)).startswith("tykpy, version")
