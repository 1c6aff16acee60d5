"""`tykpy config show`, `tykpy check-config`, the help of the broker, and warnings about variables."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.broker import TYKPY, RunningBroker
from tests.support.hooks import SOURCE
from tykpy.broker.config import flag_of, groups, options, variable_of

CODE = 'import pathlib\npathlib.Path(__file__).with_name("ran").touch()\n' + SOURCE


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TYKPY, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.fixture
def sources(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """Return flags and variables; with a file that they name, each of them sets something."""
    (tmp_path / "tykpy.toml").write_text('timeout = "7500ms"\nworkers = 5\n')
    flags = ["--config", str(tmp_path / "tykpy.toml"), "--threads", "2", "--runtime-dir", str(tmp_path)]
    return flags, {
        "TYKPY_WORKERS": "3",
        "TYKPY_REDIS": "redis://me:hidden@h/1",
        "TYKPY_EVENT_WEBHOOK": "http://h/hidden",
    }


def test_each_value_is_shown_with_its_source(tmp_path: Path, sources: tuple[list[str], dict[str, str]]) -> None:
    flags, environment = sources
    done = run("config", "show", *flags, **environment)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()[1:]}
    assert set(rows) == {flag_of(option.name) for option in options()}
    assert rows["--timeout"] == ["7.5s", str(tmp_path / "tykpy.toml")]
    assert rows["--workers"] == ["3", "TYKPY_WORKERS"]
    assert rows["--threads"] == ["2", "command line"]
    assert rows["--max-body"] == ["48MiB", "default"]
    assert rows["--redis"] == ["redis://***@h/1", "TYKPY_REDIS"]
    assert rows["--event-webhook"] == ["http://h/...", "TYKPY_EVENT_WEBHOOK"]
    assert "hidden" not in done.stdout + done.stderr


def test_values_and_sources_are_shown_as_json(tmp_path: Path, sources: tuple[list[str], dict[str, str]]) -> None:
    flags, environment = sources
    done = run("config", "show", "--json", *flags, **environment)
    found = json.loads(done.stdout)
    assert found["timeout"] == {"value": 7.5, "source": "file", "name": str(tmp_path / "tykpy.toml")}
    assert found["workers"] == {"value": 3, "source": "environment", "name": "TYKPY_WORKERS"}
    assert found["threads"] == {"value": 2, "source": "command line", "name": "--threads"}
    assert found["max_body"] == {"value": 48 << 20, "source": "default", "name": ""}
    assert "hidden" not in done.stdout


def test_help_has_groups_variables_and_defaults() -> None:
    done = run("broker", "--help", COLUMNS="80")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        "Options:", *(f"{title}:" for title in groups()),
    ]  # fmt: skip
    words = " ".join(done.stdout.split())
    for option in options():
        assert f"env var: {variable_of(option.name)}" in words
    assert "--queue-bytes SIZE " in words
    assert "env var: TYKPY_QUEUE_BYTES; default: 1GiB]" in words


def test_problems_come_first_and_values_follow(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    done = run("check-config", "--runtime-dir", str(tmp_path / "run"), "--bundles", str(tmp_path))
    first, second, *_, last = done.stdout.splitlines()
    assert done.returncode == 1
    assert first.startswith(f"problem: bundle bad.py: {tmp_path}/bad.py:1: SyntaxError")
    assert second.split() == ["--bundles", str(tmp_path)]
    assert last == "1 problem found"


def test_bundles_are_imported_only_with_load(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "hooks.py").write_text(CODE)
    (bundles / "lacks.py").write_text("import no_such_module\n" + SOURCE)
    flags = ["--runtime-dir", str(tmp_path / "run"), "--bundles", str(bundles)]
    done = run("check-config", *flags)
    assert (done.returncode, (bundles / "ran").exists()) == (0, False), done.stdout
    assert "the bundles were checked without importing them; --load" in done.stdout
    done = run("check-config", "--load", *flags)
    assert (done.returncode, (bundles / "ran").exists()) == (1, True), done.stdout
    assert "no_such_module" in done.stdout.splitlines()[0]
    assert "without importing" not in done.stdout


def test_an_unknown_variable_is_a_warning(tmp_path: Path) -> None:
    said = "tykpy: warning: the environment variable TYKPY_TIMOUT is unknown, and ignored; did you mean TYKPY_TIMEOUT?"
    done = run("check-config", "--runtime-dir", str(tmp_path / "run"), TYKPY_TIMOUT="3s")
    assert done.stderr == f"{said}\n"
    with RunningBroker(tmp_path, env={"TYKPY_TIMOUT": "3s"}) as broker:
        assert said in broker.log
