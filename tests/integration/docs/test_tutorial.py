"""docs/tutorial.md as a newcomer follows it: new, dev, a request, an edit, a failing test, a replay that differs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.traffic.test_record import record_until, recording
from tests.support.broker import PATIENCE, TYKPY, running_broker
from tests.support.dev_command import DevCommand
from tests.support.pages import blocks
from tests.support.root import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
HELLO = '    request.add_header("X-Hello", "from Python")\n'


def ran(folder: Path, *command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=4 * PATIENCE)
    return done.returncode, done.stdout + done.stderr


def python_block(part: str) -> str:
    (text,) = [block.text for block in blocks(PAGE, "python") if part in block.text]
    return text


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    assert ran(tmp_path, TYKPY, "new", "hello")[0] == 0
    return tmp_path / "hello"


def test_a_hook_is_seen_edited_and_mended(hello: Path, tmp_path: Path) -> None:
    middleware = hello / "middleware.py"
    assert python_block("import uuid4") == middleware.read_text()
    with DevCommand(hello, tmp_path / "log") as dev:
        seen = dev.get("/orders?id=1")
        assert seen.status == 200
        assert seen.json["headers"]["X-Request-Id"]
        dev.wait_for("request.set_headers['X-Request-Id']")
        shown = dev.output
        assert HELLO in python_block(HELLO)
        edit(middleware, "    return request, session\n", HELLO + "    return request, session\n")
        dev.wait_for("loading again", after=shown)
        assert dev.get("/orders").json["headers"]["X-Hello"] == "from Python"
        shown = dev.output
        edit(middleware, "request.add_header(", "request.add_heder(")
        dev.wait_for("loading again", after=shown)
        page = dev.get("/orders", Accept="text/html")
        assert page.status == 500
        assert b"add_heder" in page.body


def test_a_test_is_added_and_fails_first(hello: Path) -> None:
    tests = hello / "tests" / "test_middleware.py"
    added = python_block("def test_hello")
    tests.write_text(tests.read_text() + "\n\n" + added[added.index("def test_hello") :])
    pytest_run = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no")
    status, shown = ran(hello, *pytest_run)
    assert status == 1
    assert "+ request.set_headers['X-Request-Id']" in shown
    edit(hello / "middleware.py", "    return request, session\n", HELLO + "    return request, session\n")
    assert ran(hello, *pytest_run)[0] == 0
    assert ran(hello, TYKPY, "lint", ".")[0] == 0


def test_a_replay_shows_what_an_edit_changes(hello: Path, tmp_path: Path) -> None:
    files = {f"hello/{name}": (hello / name).read_text() for name in ("manifest.json", "middleware.py")}
    with (
        running_broker(tmp_path, workers=2, files=files) as broker,
        recording(broker, tmp_path / "traffic.tykpy"),
    ):
        for _ in range(3):
            broker.call("add_request_id", bundle="hello")
        record_until(tmp_path / "traffic.tykpy", 3)
    replay = (TYKPY, "replay", "../traffic.tykpy", "--bundle", ".", "--diff")
    status, shown = ran(hello, *replay)
    assert (status, "no differences" in shown) == (0, True), shown
    edit(hello / "middleware.py", "    return request, session\n", HELLO + "    return request, session\n")
    status, shown = ran(hello, *replay)
    assert status == 1
    assert "3 calls of add_request_id: + request.set_headers['X-Hello'], as in call 1" in shown


def test_the_page_has_these_steps() -> None:
    shown = "".join(block.text for block in blocks(PAGE, "console"))
    recorded = ("tykpy record -o", "tykpy replay traffic.tykpy --bundle . --diff")
    commands = (
        "tykpy new hello",
        "tykpy dev",
        "curl 'http://localhost:8080/orders?id=1'",
        "pytest",
        "tykpy lint .",
        *recorded,
    )
    missing = [command for command in commands if f"$ {command}" not in shown]
    assert not missing
