"""`tykpy dev`: a process, requests to it, and saves of its files."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.broker import PATIENCE, wait_until
from tests.support.bundles import write_bundle
from tests.support.dev_command import DevCommand

HOOKS = """
import os, subprocess
import tyk

@Pre
def note(request, session, spec):
    print("hello")
    assert 0 < tyk.current().time_left <= 30
    request.add_header("X-Note", "first")
    return request, session

@Pre
def maybe(request, session, spec):
    secret_key = "hunter2"
    if request.get_header("X-Crash"):
        os._exit(7)
    if request.get_header("X-Leave"):
        left = subprocess.Popen(["sleep", "600"], start_new_session=True)
        request.add_header("X-Left", str(left.pid))
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


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"//[x", 200),
        (b"//[x]/y?a=b", 200),
        (b"//evil.com/x", 200),
        (b"http://[/x", 400),
        (b"/%zz", 400),
        (b"/%", 400),
        (b"/a%00b?%zz", 200),
        (b"/\xff", 400),
    ],
)
def test_odd_targets_are_answered_as_by_gos_server(dev: DevCommand, target: bytes, status: int) -> None:
    """A path may begin with two slashes, and look like a host then; it must have whole escapes."""
    answer = exchange(dev, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.split()[1] == str(status).encode()
    assert status != 200 or b'"url": "/' + target.lstrip(b"/") + b'"' in answer
    assert "Traceback" not in dev.output


@pytest.mark.parametrize("host", [b"\xff", b"evil.com", b"[::1", b"]["])
def test_a_host_that_is_not_ours_is_refused(dev: DevCommand, host: bytes) -> None:
    answer = exchange(dev, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.split()[1] == b"421"
    assert "Traceback" not in dev.output


@pytest.mark.parametrize(
    "body",
    [b"", b"3", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'{"rate": "x"}', b'{"quota_max": ' + b"9" * 5_000 + b"}"],
)
def test_what_is_no_session_is_refused(dev: DevCommand, body: bytes) -> None:
    answer = dev.admin("PUT", "keys/mine", body)
    assert (answer.status, answer.body[:13]) == (400, b"not a session")
    assert "Traceback" not in dev.output


def test_the_charset_of_a_session_does_not_matter(dev: DevCommand) -> None:
    answer = dev.get("/__tykpy/keys/mine", "PUT", b"{}", X_Tykpy="1", Content_Type="application/json; charset=nope")
    assert answer.status == 204


def test_a_client_that_waits_for_100_may_leave(dev: DevCommand) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", dev.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    before = dev.output
    dev.get("/after")
    dev.wait_for("GET /after 200", before)
    assert "Traceback" not in dev.output


def exchange(dev: DevCommand, request: bytes) -> bytes:
    """Send bytes; return everything that comes until the end of the connection."""
    with socket.create_connection(("127.0.0.1", dev.port), PATIENCE) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def test_an_error_is_json_for_clients_and_a_page_for_browsers(dev: DevCommand) -> None:
    answer = dev.get(X_Fail="yes")
    assert (answer.status, answer.json) == (500, {"error": "Middleware error"})
    page = dev.get(X_Fail="yes", Accept="text/html,*/*", Cookie="id=1234").body.decode()
    assert "ValueError: on &lt;purpose&gt;" in page
    assert "raise ValueError" in page
    assert "hunter2" not in page
    assert "1234" not in page
    dev.wait_for("raise ValueError")


def test_a_failing_auth_hook_has_a_page_too(tmp_path: Path) -> None:
    """The gateway answers 403 then, as to a wrong key."""
    source = "@CustomKeyCheck\ndef check(request, session, metadata, spec):\n    raise ValueError('no keys')\n"
    bundle = write_bundle(tmp_path / "bundle", {"middleware.py": source}, auth_check={"name": "check"})
    with DevCommand(bundle, tmp_path / "log") as dev:
        assert dev.get().json == {"error": "Key not authorised"}
        answer = dev.get(Accept="text/html")
        page = answer.body.decode()
    assert answer.status == 403
    assert "ValueError: no keys" in page
    assert "&lt;empty SessionState&gt;" in page


def test_a_hook_that_ends_its_process_fails_one_request(dev: DevCommand) -> None:
    assert dev.get(X_Crash="yes").status == 500
    assert dev.get().status == 200
    dev.wait_for("exited with code 7")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ast.parse = None", "no other bundle could be loaded: it replaced functions of Python"),
        ("sys.addaudithook(refuse)", "an audit hook refuses to open files or to import modules"),
    ],
)
def test_a_bundle_that_would_end_a_worker_is_named(tmp_path: Path, code: str, said: str) -> None:
    source = f"import ast, sys\ndef refuse(event, arguments):\n    raise RuntimeError(event)\n{code}\n"
    bundle = write_bundle(tmp_path / "bundle", {"middleware.py": source})
    with DevCommand(bundle, tmp_path / "log") as dev:
        dev.wait_for(f"it would end a worker: {said}")


def test_what_hooks_leave_running_ends_with_it(tmp_path: Path) -> None:
    with DevCommand(write(tmp_path / "bundle"), tmp_path / "log") as dev:
        left = psutil.Process(int(dev.get(X_Leave="yes").json["headers"]["X-Left"]))
        # It is an orphan from here on.
        assert dev.get(X_Crash="yes").status == 500
        assert left.is_running()
    assert not left.is_running()


def test_a_hook_that_hangs_fails_one_request(dev: DevCommand) -> None:
    assert dev.get(X_Hang="yes").status == 500
    assert dev.get().status == 200
    dev.wait_for("no answer within 2 s")


def test_a_target_with_scheme_and_host_is_its_path(dev: DevCommand) -> None:
    assert dev.get("http://localhost/a/path?q=1").json["url"] == "/a/path?q=1"


@pytest.mark.parametrize("headers", [{"Transfer_Encoding": "chunked", "Content_Length": "1"}, {"Content_Length": "x"}])
def test_a_malformed_request_is_refused_quietly(dev: DevCommand, headers: dict[str, str]) -> None:
    assert dev.get("/", "POST", None, **headers).status == 400
    assert "Traceback" not in dev.output


def test_a_client_that_leaves_is_no_error(dev: DevCommand) -> None:
    with socket.create_connection(("127.0.0.1", dev.port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    before = dev.output
    assert dev.get("/next").status == 200
    dev.wait_for("GET /next 200", after=before)
    assert "Traceback" not in dev.output


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


LIFESPAN = """
from pathlib import Path
from tyk.decorators import on_start, on_stop

MARK = Path(__file__).parent / "marks"

@on_start
async def begin():
    print("begun")

@on_stop
def end():
    with MARK.open("a") as file:
        file.write("ended\\n")
"""


def test_a_reload_stops_the_old_bundle_and_starts_the_new(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle", HOOKS + LIFESPAN)
    with DevCommand(bundle, tmp_path / "log") as dev:
        dev.wait_for("begun")
        shown = dev.output
        assert dev.admin("POST", "reload").json["problems"] == []
        dev.wait_for("begun", after=shown)
        wait_until(lambda: (bundle / "marks").exists(), lambda: "on_stop ran")
    assert (bundle / "marks").read_text() == "ended\n" * 2


DEFINITION = {
    "api_id": "orders",
    "custom_middleware_bundle": "any.zip",
    "use_standard_auth": True,
    "proxy": {"listen_path": "/orders/", "strip_listen_path": True},
}


def test_a_folder_of_definitions_and_keys_are_served(tmp_path: Path) -> None:
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "orders.json").write_text(json.dumps(DEFINITION))
    (tmp_path / "keys.json").write_text('{"known": {"alias": "somebody"}}')
    options = ("--api", str(tmp_path / "apps"), "--keys", str(tmp_path / "keys.json"))
    with DevCommand(write(tmp_path / "bundle"), tmp_path / "log", *options) as dev:
        assert dev.get("/orders/1").status == 401
        assert dev.get("/orders/1", Authorization="unknown").status == 403
        assert dev.get("/orders/1", Authorization="known").json["url"] == "/1"
        assert dev.admin("PUT", "keys/new", b'{"quota_max": 1, "quota_renewal_rate": 60}').status == 204
        assert [dev.get("/orders/1", Authorization="new").status for _ in range(2)] == [200, 403]
        assert dev.admin("GET", "keys/new").json["quota_remaining"] == 0
        assert dev.admin("PUT", "keys/new", b'{"rate": "many"}').body.startswith(b"not a session: rate")
        assert dev.get("/__tykpy/reload", "POST").status == 403
        (tmp_path / "apps" / "broken.json").write_text('{"api_id": 7}')
        state = dev.admin("POST", "reload").json
        assert [api["listen_path"] for api in state["apis"]] == ["/orders/"]
        assert "broken.json:1: api_id: Expected `str`, got `int`" in state["problems"][0]
        assert dev.get("/orders/1", Authorization="known").status == 200
        assert dev.get("/elsewhere").status == 500


def test_a_file_stands_for_the_bundle_of_a_definition(tmp_path: Path) -> None:
    """It has no manifest: its decorators say which hooks run."""
    (tmp_path / "hooks.py").write_text("from tyk.decorators import *\n" + HOOKS)
    (tmp_path / "api.json").write_text(json.dumps({**DEFINITION, "use_keyless": True}))
    options = ("--api", str(tmp_path / "api.json"))
    (tmp_path / "elsewhere").mkdir()
    with DevCommand(tmp_path / "elsewhere" / ".." / "hooks.py", tmp_path / "log", *options) as dev:
        assert dev.get("/orders/1").json["headers"]["X-Note"] == "first"
        assert "no hook is configured" not in dev.output
        dev.get("/orders/1", X_Fail="yes")
        dev.wait_for(f"{tmp_path}/hooks.py:")
