"""`tykpy dev`: a process, requests to it, and saves of its files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import write_bundle
from tests.support.dev_command import DevCommand

HOOKS = """
import os

@Pre
def note(request, session, spec):
    print("hello")
    request.add_header("X-Note", "first")
    return request, session

@Pre
def maybe(request, session, spec):
    secret_key = "hunter2"
    if request.get_header("X-Crash"):
        os._exit(7)
    if request.get_header("X-Hang"):
        while True:
            pass
    if request.get_header("X-Fail"):
        raise ValueError("on <purpose>")
    return request, session
"""


def write(folder: Path, source: str = HOOKS) -> Path:
    return write_bundle(folder, {"middleware.py": source}, pre=[{"name": "note"}, {"name": "maybe"}])


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCommand]:
    folder = tmp_path_factory.mktemp("dev")
    with DevCommand(write(folder / "bundle"), folder / "log", "--timeout", "2s") as running:
        yield running


def test_a_request_passes_its_hooks_and_is_shown(dev: DevCommand) -> None:
    answer = dev.get("/a/path?q=1", "POST", b"some text", Content_Type="text/plain")
    echoed = answer.json
    assert (echoed["method"], echoed["url"], echoed["body"]) == ("POST", "/a/path?q=1", "some text")
    assert (echoed["headers"]["X-Note"], "Server" in answer.headers) == ("first", False)
    dev.wait_for("POST /a/path?q=1 200")
    dev.wait_for("    + request.set_headers['X-Note']: 'first'\n    | hello\n")


def test_an_error_is_json_for_clients_and_a_page_for_browsers(dev: DevCommand) -> None:
    answer = dev.get(X_Fail="yes")
    assert (answer.status, answer.json) == (500, {"error": "Middleware error"})
    page = dev.get(X_Fail="yes", Accept="text/html,*/*", Cookie="id=1234").body.decode()
    assert "ValueError: on &lt;purpose&gt;" in page
    assert "raise ValueError" in page
    assert "hunter2" not in page
    assert "1234" not in page
    dev.wait_for("raise ValueError")


def test_a_hook_that_ends_its_process_fails_one_request(dev: DevCommand) -> None:
    assert dev.get(X_Crash="yes").status == 500
    assert dev.get().status == 200
    dev.wait_for("ended with exit code 7")


def test_a_hook_that_hangs_fails_one_request(dev: DevCommand) -> None:
    assert dev.get(X_Hang="yes").status == 500
    assert dev.get().status == 200
    dev.wait_for("no answer within 2 s")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", ""])
def test_names_of_others_are_refused(dev: DevCommand, host: str) -> None:
    answer = dev.get(Host=host)
    assert (answer.status, b"--allow-host" in answer.body) == (421, True)


@pytest.mark.parametrize("host", ["localhost", "[::1]:8080", "127.0.0.1:80", "api.localhost:8080"])
def test_names_of_this_machine_are_served(dev: DevCommand, host: str) -> None:
    assert dev.get(Host=host).status == 200


def test_a_save_serves_new_code_and_a_broken_one_its_error(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    with DevCommand(bundle, tmp_path / "log", "--allow-host", "api.test") as dev:
        assert dev.get(Host="api.test").json["headers"]["X-Note"] == "first"
        write(bundle, HOOKS.replace('"first"', '"second"'))
        dev.wait_for("saved: loading again\n  /  bundle, 2 hooks")
        assert dev.get().json["headers"]["X-Note"] == "second"
        write(bundle, HOOKS + "def broken(:\n")
        dev.wait_for("SyntaxError")
        assert b"SyntaxError" in dev.get(Accept="text/html").body
        shown = dev.output
        write(bundle)
        dev.wait_for("2 hooks", after=shown)
        assert dev.get().json["headers"]["X-Note"] == "first"


def test_a_used_port_is_told(dev: DevCommand, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=rf"port {dev.port} cannot be used"):
        DevCommand(tmp_path, tmp_path / "log", "--port", str(dev.port)).__enter__()
