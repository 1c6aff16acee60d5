"""`tykpy hooks` fits the terminal; pipes, `--wide` and `--json` get everything. `--bundles` outlives what they do."""

import os
import pty
import subprocess
import termios
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import TYKPY

NAME: Final = "checks_the_token_of_a_partner_with_a_very_long_name"
SOURCE: Final = f"""
from tyk.decorators import CustomKeyCheck

@CustomKeyCheck
def {NAME}_1(request, session, metadata, spec):
    return request, session, metadata

@CustomKeyCheck
def {NAME}_2(request, session, metadata, spec):
    return request, session, metadata
"""
BUNDLE: Final = "payments_of_the_second_half_of_the_year.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bundles")
    (found / BUNDLE).write_text(SOURCE)
    return found


def hooks(folder: Path, *flags: str, columns: int | None = None) -> list[str]:
    """Return the lines that `tykpy hooks` prints on a terminal with so many columns; None: into a pipe."""
    command = [TYKPY, "hooks", "--bundles", str(folder), *flags]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    if columns is None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.splitlines()
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        termios.tcsetwinsize(theirs, (24, columns))
        with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = b""
            try:
                while data := screen.read(65_536):
                    shown += data
            except OSError:  # how Linux reports that nobody has the terminal open any more
                pass
        assert process.returncode == 0, shown.decode()
    return shown.decode().splitlines()


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal(folder: Path, columns: int) -> None:
    lines = hooks(folder, columns=columns)
    assert max(map(len, lines)) <= columns
    # Both ends are shown, so the two hooks can be told apart.
    for end in ("1", "2"):
        assert any("checks_" in line and f"name_{end} " in line and "..." in line for line in lines), lines


@pytest.mark.parametrize(("flags", "columns"), [(("--wide",), 80), ((), None), (("--json",), None)])
def test_wide_json_and_pipes_show_whole_names(folder: Path, flags: tuple[str, ...], columns: int | None) -> None:
    text = "\n".join(hooks(folder, *flags, columns=columns))
    assert "..." not in text
    for name in (BUNDLE, f"{NAME}_1", f"{NAME}_2", "(request, session, metadata, spec)" if not flags else BUNDLE):
        assert name in text


def test_shapes_go_before_names_are_cut(folder: Path) -> None:
    needed = max(map(len, hooks(folder)))
    fits, narrower = hooks(folder, columns=needed), hooks(folder, columns=needed - 1)
    assert any("SHAPE" in line for line in fits)
    assert not any("SHAPE" in line or "..." in line for line in narrower)


AUDIT: Final = """
def refuse(event, arguments):
    raise RuntimeError(event)
sys.addaudithook(refuse)
"""
ENDINGS: Final = {
    "audit.py": (AUDIT, "exited with code 82 (an audit hook refuses to open files or to import modules)"),
    "closes.py": ("os.closerange(3, 100)", "exited with code 79 (its descriptors were closed)"),
    "exits.py": ("os._exit(0)", "exited with code 0"),
    "kills.py": ("os.killpg(0, signal.SIGKILL)", "was ended by SIGKILL"),
    "replaces.py": ("ast.parse = None", "exited with code 86 (no other bundle could be loaded"),
}
HOOK: Final = "\n@Pre\ndef sound(request, session, spec): return request, session\n"


@pytest.mark.parametrize(
    "command", [("hooks",), ("check-config", "--load", "--runtime-dir", "run")], ids=lambda c: c[0]
)
def test_bundles_that_end_the_process_are_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    """The other bundles are loaded, and nothing is left behind."""
    temporary, bundles = tmp_path / "temporary", tmp_path / "bundles"
    temporary.mkdir()
    bundles.mkdir()
    imports = "import ast, os, signal, sys\nfrom tyk.decorators import *\n"
    for name, (code, _) in ENDINGS.items():
        (bundles / name).write_text(imports + code + HOOK)
    (bundles / "good.py").write_text(imports + "print('printed by it')" + HOOK)
    done = subprocess.run(
        [TYKPY, *command, "--bundles", bundles],
        cwd=tmp_path, env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    problems = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("problem: bundle ")]
    assert len(problems) == len(ENDINGS)
    for name, (_, said) in ENDINGS.items():
        place = f"problem: bundle {name}: {bundles}/{name}: the process that loaded it {said}"
        assert any(problem.startswith(place) for problem in problems), problems
    assert "printed by it" in done.stderr
    assert "printed by it" not in done.stdout
    assert os.listdir(temporary) == []


def test_threads_of_bundles_do_not_keep_the_command(tmp_path: Path) -> None:
    code = "import threading\nfrom tyk.decorators import *\nthreading.Thread(target=threading.Event().wait).start()"
    (tmp_path / "waits.py").write_text(code + HOOK)
    assert any("sound" in line for line in hooks(tmp_path))
