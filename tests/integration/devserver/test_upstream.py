"""`tykpy dev` before a real HTTP server: requests and responses pass as they are."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.bundles import write_bundle
from tests.support.dev_command import DevCommand
from tests.support.peers.redis_server import free_port

PLAIN = "grüße".encode()
SIGN = """
@Response
def sign(request, response, session, metadata, spec):
    response.headers["X-Signed"] = response.body
"""


class Upstream(BaseHTTPRequestHandler):
    """Answers with what it received in headers, and with a body that it compresses if it may."""

    def do_POST(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        is_compressed = "gzip" in self.headers.get("Accept-Encoding", "")
        answer = gzip.compress(PLAIN) if is_compressed else PLAIN
        self.send_response(201)
        self.send_header("X-Path", self.path)
        self.send_header("X-Host", self.headers["Host"])
        self.send_header("X-Many", ",".join(self.headers.get_all("X-Many", [])))
        self.send_header("X-Body", body.decode())
        for cookie in ("a=1", "b=2"):
            self.send_header("Set-Cookie", cookie)
        if is_compressed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def dev(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCommand]:
    folder = tmp_path_factory.mktemp("dev")
    bundle = write_bundle(folder / "bundle", {"middleware.py": SIGN}, response=[{"name": "sign"}])
    with DevCommand(bundle, folder / "log", "--upstream", f"http://{upstream}/base") as running:
        yield running


def test_a_request_and_a_response_pass_as_they_are(dev: DevCommand, upstream: str) -> None:
    answer = dev.get("/a%20path?q=%C3%BC&q=2", "POST", b"some text")
    assert (answer.status, answer.body) == (201, PLAIN)
    headers = answer.headers
    assert (headers["X-Path"], headers["X-Host"]) == ("/base/a%20path?q=%C3%BC&q=2", upstream)
    assert (headers["X-Body"], headers.get_all("Set-Cookie")) == ("some text", ["a=1", "b=2"])


def test_only_a_client_that_accepts_it_gets_a_compressed_body(dev: DevCommand) -> None:
    compressed = dev.get(method="POST", Accept_Encoding="gzip")
    assert (compressed.headers["Content-Encoding"], gzip.decompress(compressed.body)) == ("gzip", PLAIN)
    assert compressed.headers["X-Signed"] == ""
    plain = dev.get(method="POST")
    assert (plain.headers["Content-Encoding"], plain.body) == (None, PLAIN)
    assert plain.headers["X-Signed"].encode("latin-1") == PLAIN


def test_an_upstream_that_is_not_there_is_error_500(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", {"middleware.py": "@Pre\ndef a(request, session, spec): ..."})
    port = free_port()
    with DevCommand(bundle, tmp_path / "log", "--upstream", f"http://127.0.0.1:{port}") as dev:
        answer = dev.get()
        assert (answer.status, answer.json) == (500, {"error": "There was a problem proxying the request"})
        dev.wait_for(f"did not answer: nothing listens at 127.0.0.1:{port}")
