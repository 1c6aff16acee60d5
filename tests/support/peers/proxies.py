"""Real proxies with the configurations that docs/proxies.md prints, in front of servers of a test.

Where a proxy is not installed its tests are skipped; with `CI=true` they fail instead.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import pytest

from tests.support.broker import PATIENCE, wait_until
from tests.support.certificates import TlsFiles
from tests.support.peers.redis_server import free_port
from tests.support.root import ROOT

PAGE: Final = (ROOT / "docs" / "proxies.md").read_text()
LANGUAGES: Final = {"nginx": "nginx", "haproxy": "haproxy", "envoy": "yaml"}
"""The proxies, and the language of their configurations in the page."""
TLS_PLACES: Final = {"nginx": r"^ *grpc_pass .*\n", "haproxy": r"^ *default-server .*\n", "envoy": r"\Z"}
"""The line that the page's TLS lines replace."""
PLACES: Final = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])
"""Where proxies are installed: Envoy's wheel beside Python, Debian's packages where only root's PATH leads."""
TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Folders that nginx makes at its start, by default where only root may."""


def program(name: str) -> str:
    """Return the path of a proxy; skip or fail the test where there is none."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        _unavailable(f"{name} is not installed; scripts/install-proxies does that")
    return found


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def blocks(name: str) -> list[str]:
    """Return a proxy's configuration from the page, and its TLS lines."""
    return re.findall(rf"^```{LANGUAGES[name]}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def tls_lines(name: str, files: TlsFiles) -> str:
    """Return the page's TLS lines, with the files of a test."""
    both = files.client.cert.with_name("proxy.pem")
    both.write_bytes(files.client.cert.read_bytes() + files.client.key.read_bytes())
    names = {"ca.pem": files.servers.path, "proxy.pem": both, "proxy.key": files.client.key}
    text = blocks(name)[1].replace("broker.example", "localhost")
    return re.sub(r"/etc/tykpy/([\w.]+)", lambda found: str(names[found[1]]), text)


class RunningProxy:
    """A proxy in front of one or two servers, by their ports on 127.0.0.1.

    `edits`: patterns and what to write in place of them, where a test could not wait for what the page says.
    """

    def __init__(
        self, name: str, folder: Path, *ports: int, tls: TlsFiles | None = None, edits: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.port = free_port()
        self._program = program(name)
        self._folder = folder
        self._log_path = folder / f"{name}.log"
        self._configuration = folder / f"{name}.{LANGUAGES[name]}"
        self._configuration.write_text(self._text(ports, tls, edits or {}))
        self._process: subprocess.Popen[bytes] | None = None

    def _text(self, ports: tuple[int, ...], tls: TlsFiles | None, edits: Mapping[str, str]) -> str:
        text = blocks(self.name)[0]
        if tls is not None:
            text = re.sub(TLS_PLACES[self.name], lambda _: tls_lines(self.name, tls), text, flags=re.MULTILINE)
        if len(ports) > 1:
            text = text.replace("#", "")
        for pattern, new in edits.items():
            text = re.sub(pattern, new, text)
        for documented, port in zip(("5550", "5555", "5556"), (self.port, *ports), strict=False):
            text = re.sub(rf"(127\.0\.0\.1:|port_value: ){documented}\b", rf"\g<1>{port}", text)
        folders = "".join(f"    {kind}_temp_path {self._folder}/{kind};\n" for kind in TEMPORARY)
        return text.replace("http {\n", "http {\n" + folders)

    @property
    def target(self) -> str:
        """Its address, as grpcio writes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log_path.read_text(errors="replace")

    def _command(self) -> list[str]:
        configuration = str(self._configuration)
        if self.name == "haproxy":
            return [self._program, "-db", "-f", configuration]
        if self.name == "envoy":
            return [self._program, "--disable-hot-restart", "--log-level", "error", "-c", configuration]
        directives = f"daemon off; pid {self._folder}/nginx.pid;"
        return [self._program, "-p", str(self._folder), "-e", "stderr", "-c", configuration, "-g", directives]

    def __enter__(self) -> Self:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(self._accepts, lambda: f"{self.name} accepts; its log:\n{self.log}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            with socket.create_connection(("127.0.0.1", self.port)):
                return True
        except ConnectionRefusedError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(PATIENCE)
