"""Problems of bundles as the development gateway shows them."""

from pathlib import Path

from tests.support.bundles import write_bundle
from tykpy.bundles.bundle import Bundle
from tykpy.bundles.loading import load_folder
from tykpy.devserver.hooks.contract import Problem
from tykpy.devserver.hooks.problems import load_problems


def problem_of(folder: Path) -> Problem:
    part = load_folder("mine", folder, str(folder))
    (problem,) = load_problems([Bundle("mine", (), folder, [part])])
    return problem


def test_a_missing_file_is_told_without_code_of_ours(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "mine", {"middleware.py": ""})
    (folder / "middleware.py").unlink()
    problem = problem_of(folder)
    assert "middleware.py is in file_list and cannot be read" in problem.message
    assert problem.frames == ()


def test_an_error_at_import_shows_its_line(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "mine", {"middleware.py": "open('/does/not/exist')\n"})
    (frame,) = problem_of(folder).frames
    assert dict(frame.source)[frame.line] == "open('/does/not/exist')"
