"""`tykpy dev` as a process, and HTTP requests to it."""

import http.client
import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.broker import PATIENCE, TYKPY, wait_until


class DevAnswer(NamedTuple):
    """An answer to a client."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class DevCommand:
    """`with DevCommand(bundle, log) as dev`: serves on a port of its own."""

    def __init__(self, bundle: Path, log: Path, *options: str) -> None:
        """`log` is the file that the terminal's output goes to."""
        self._log = log
        self._command = [TYKPY, "dev", str(bundle), "--port", "0", *options]
        self.port = 0

    @property
    def output(self) -> str:
        """What was shown so far."""
        return self._log.read_text()

    def get(self, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> DevAnswer:
        """Send a request; `_` in the names of headers stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return DevAnswer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def admin(self, method: str, path: str, body: bytes | None = None) -> DevAnswer:
        """Send a request to a path below `/__tykpy`."""
        return self.get(f"/__tykpy/{path}", method, body, X_Tykpy="1")

    def wait_for(self, text: str, after: str = "") -> None:
        """Wait until the terminal shows a text, after what it had shown before."""

        def is_shown() -> bool:
            assert self.process.poll() is None, self.output
            return text in self.output[len(after) :]

        wait_until(is_shown, lambda: f"{text!r} is shown: {self.output}")

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._find_port()
        return self

    def _find_port(self) -> None:
        try:
            self.wait_for("tykpy dev on http://localhost:")
            self.port = int(self.output.partition("http://localhost:")[2].partition(" ")[0])
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
