"""docs/msgpack-rpc.md is correct: its programs run, and its tables name every code and method."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.gateway.go_gateway import BUILD_TIMEOUT, MODULE, go_program
from tests.support.peers.front_ends import RpcFrontEnd, both_listeners
from tests.support.root import ROOT
from tykpy.broker.codes import CODE_OF_STATUS
from tykpy.broker.msgpackrpc.methods import dispatch_methods
from tykpy.ipc.frame import Status

PAGE = (ROOT / "docs" / "msgpack-rpc.md").read_text()
HOOKS = """
from tyk.decorators import Pre

@Pre
def add_greeting(request, session, spec):
    request.add_header("X-Greeting", "hello")
    return request, session
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A broker's MessagePack-RPC socket."""
    broker = both_listeners(RunningBroker(tmp_path_factory.mktemp("doc")))
    broker.add_file("greeting.py", HOOKS)
    with broker:
        yield RpcFrontEnd(broker).path


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line] for line in lines[2:]]


def test_the_python_program_works(path: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(block("python"), "docs/msgpack-rpc.md", "exec"), names)
    good = {"hook_type": "Pre", "hook_name": "add_greeting", "request": {"raw_body": b"\xff"}}
    outcomes = names["dispatch"](str(path), [good, {**good, "hook_name": "nobody"}, {"request": {"raw_body": "text"}}])
    assert outcomes[0][0] is None
    assert outcomes[0][1]["request"]["set_headers"] == {"X-Greeting": "hello"}
    assert outcomes[1][0].startswith("NOT_FOUND: ")
    assert names["dispatch"](str(path), []) == []


def test_the_error_on_the_page_is_the_real_one(path: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(block("python"), "docs/msgpack-rpc.md", "exec"), names)
    wrong = {"hook_type": "Pre", "hook_name": "add_greeting", "request": {"raw_body": "text"}}
    ((error, _),) = names["dispatch"](str(path), [wrong])
    assert f"``{error} ``" in PAGE  # it has backticks of its own


def test_the_go_program_works(path: Path, tmp_path: Path) -> None:
    go_program("msgpackclient")  # skips or fails without Go
    source = tmp_path / "main.go"
    source.write_text(block("go"))
    go = shutil.which("go")
    assert go is not None
    done = subprocess.run(
        [go, "run", str(source), str(path)], cwd=MODULE, capture_output=True, text=True, check=False,
        timeout=BUILD_TIMEOUT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "map[X-Greeting:hello]\n"), done.stderr


def test_every_code_is_there_with_its_counterpart() -> None:
    told = {code: grpc for code, grpc, _ in rows("Errors")}
    expected = {status.name: CODE_OF_STATUS[status].name for status in Status if status is not Status.CANCELLED}
    assert told == expected  # the caller of a cancelled call is gone


def test_every_method_is_there() -> None:
    class Nobody:
        def dispatch(self, dispatch: Any) -> None: ...
        def cancel(self, dispatch: Any) -> None: ...

    assert {method for method, _, _ in rows("Methods")} == set(dispatch_methods(Nobody(), list))
