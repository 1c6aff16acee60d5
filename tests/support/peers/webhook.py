"""A real HTTP receiver of events: answers as the test says, and records the requests."""

import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.broker import wait_until


class Post(NamedTuple):
    """One received request."""

    path: str
    headers: dict[str, str]
    document: dict[str, Any]
    connection: int
    """The client's port, which identifies the connection."""


class Receiver:
    """What a test sees of the server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.posts: list[Post] = []
        """All received requests, whatever the answer was."""
        self.answer: Callable[[int], int] = lambda number: 200
        """Returns the status for the n-th post, counted from 0."""
        self.answer_size = 0
        self.hang_up = False
        """Close the connection after each answer without announcing it."""

    @property
    def names(self) -> list[str]:
        """The names of the received events, in order."""
        return [post.document["message"]["Type"] for post in self.posts]

    def wait(self, count: int) -> list[Post]:
        """Wait for so many posts."""
        wait_until(lambda: len(self.posts) >= count, lambda: f"{count} posts; there are {len(self.posts)}")
        return self.posts


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.posts.append(Post(self.path, dict(self.headers), document, self.client_address[1]))
            self.send_response(receiver.answer(len(receiver.posts) - 1))
            self.send_header("Content-Length", str(receiver.answer_size))
            self.end_headers()
            self.wfile.write(b"x" * receiver.answer_size)
            self.close_connection = receiver.hang_up

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is http.server's)
            """Say nothing."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up: some tests do."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def running_receiver(certificate: Path | None = None, key: Path | None = None) -> Iterator[Receiver]:
    """Receive events for the time of a `with` block; over TLS where there is a certificate."""
    receiver = Receiver("")
    with _Server(("127.0.0.1", 0), _handler(receiver)) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        receiver.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/events?token=between-us"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
