"""Every command and every file that the README shows, executed as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.generate_docs import TARGET, render
from tests.support.broker import TYKPY, running_broker

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TIMEOUT = 110


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command line, without its comment."""
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [line.split("  #")[0].strip() for line in lines]


def shell(command: str, folder: Path, **environment: str) -> str:
    """Run a command line as a user would, with our tykpy first on the path."""
    path = f"{Path(TYKPY).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True,
        text=True, check=False, timeout=TIMEOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def first_bundle() -> dict[str, str]:
    (source,) = [block for block in blocks("python") if "add_hello" in block]
    return {"hello.py": source}


def make_run(_tmp_path: Path) -> None:
    # The command of `make run`, with the environment that runs this test instead of one made anew.
    recipe = shell("make --dry-run --silent --assume-old=.venv/.installed run VENV=.venv", ROOT)
    assert "-m examples.demo" in recipe
    assert "all calls did what the bundle says" in shell(f"{sys.executable} -m examples.demo", ROOT)


def make_test(_tmp_path: Path) -> None:
    # Running it would run this test again: it is what runs.
    recipe = shell("make --dry-run test", ROOT)
    for part in ("ruff check", "mypy", "lint-imports", "scripts/test-all", "scripts/test-other-pythons"):
        assert part in recipe
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


def pip_install(tmp_path: Path) -> None:
    # Only tykpy itself, from its own wheel; what it depends on is what runs this test.
    target = tmp_path / "site"
    shell(f"{sys.executable} -m pip install --quiet --no-deps --target {target} .", ROOT)
    probe = "import gateway, tyk.gateway, cli; assert gateway.TykGateway is tyk.gateway.TykGateway; print(cli.__file__)"
    where = shell(f"{sys.executable} -P -c '{probe}'", tmp_path, PYTHONPATH=str(target))
    assert where.strip() == str(target / "cli.py")


def version(tmp_path: Path) -> None:
    assert "tykpy, version" in shell("tykpy --version", tmp_path)


def first_middleware(tmp_path: Path) -> None:
    flags = shlex.split(command_starting("tykpy broker --workers 2"))[2:]
    assert flags == ["--workers", "2", "--bundles", "bundles"]
    with running_broker(tmp_path, workers=2, files=first_bundle()) as broker:
        said = {"TYKPY_RUNTIME_DIR": str(broker.runtime)}
        shown = shell(command_starting("tykpy call"), tmp_path, **said)
        (expected,) = [block.splitlines()[1] for block in blocks("text") if "add_hello answered" in block]
        assert expected in shown.splitlines()
        listed = shell(command_starting("tykpy hooks"), tmp_path, **said)
        assert re.search(r"hello(\.py)? +add_hello +Pre", listed)


def next_to_a_gateway(tmp_path: Path) -> None:
    flags = shlex.split(command_starting("tykpy broker --workers 8"))[2:]
    values = dict(zip(flags[::2], flags[1::2], strict=True))
    assert values.pop("--bundles") == "/opt/tyk-gateway/middleware/bundles"
    assert values.pop("--socket-group") == "tyk"
    assert values.pop("--workers") == "8"
    rest = [word for pair in values.items() for word in pair]
    with running_broker(tmp_path, *rest, "--socket-group", str(os.getgid()), workers=8, files=first_bundle()) as broker:
        assert broker.call("add_hello").request.set_headers["X-Hello"] == "from Python"


def command_starting(text: str) -> str:
    return next(command for command in commands() if command.startswith(text))


EXECUTED: dict[str, Callable[[Path], None]] = {
    "make run": make_run,
    "make test": make_test,
    "pip install": pip_install,
    "tykpy --version": version,
    "tykpy broker --workers 2": first_middleware,
    "tykpy call": first_middleware,
    "tykpy hooks": first_middleware,
    "tykpy broker --workers 8": next_to_a_gateway,
}


@pytest.mark.parametrize("execute", dict.fromkeys(EXECUTED.values()), ids=lambda one: one.__name__)
def test_the_commands_do_what_the_readme_says(tmp_path: Path, execute: Callable[[Path], None]) -> None:
    execute(tmp_path)


def test_no_command_of_the_readme_goes_unexecuted() -> None:
    unknown = [command for command in commands() if not command.startswith(tuple(EXECUTED))]
    assert not unknown


def test_the_commands_within_sentences_exist(tmp_path: Path) -> None:
    named = set(re.findall(r"`tykpy ([a-z-]+)", README))
    usage = shell("tykpy --help", tmp_path)
    assert named
    assert not [command for command in named if not re.search(rf"^  {command} ", usage, re.MULTILINE)]
    targets = set(re.findall(r"`make ([a-z]+)`", README))
    makefile = (ROOT / "Makefile").read_text()
    assert not [target for target in targets if f"\n{target}:" not in makefile]


def test_the_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        page = ROOT / name
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{name}: {link}"


def test_the_table_of_options_is_up_to_date() -> None:
    assert TARGET.read_text() == render(), "run make docs"
