"""A running gateway (tests/gateway, in Go), which treats hooks as Tyk does."""

import base64
import http.client
import json
import signal
import ssl
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

from tests.support.broker import PATIENCE, wait_until
from tests.support.gateway.go_gateway import go_program

Headers = list[tuple[str, str]]

ACCESS: Final = frozenset({"use_keyless", "use_standard_auth", "enable_coprocess_auth"})
"""Fields of a definition that say how an API authenticates its clients."""
ECHO_PATH: Final = "/echo"
"""The upstream answers here with what it received, as on every path without a canned response."""


@dataclass(frozen=True)
class Canned:
    """The upstream's answer on one path."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return it as the gateway's configuration has it."""
        body = base64.b64encode(self.body).decode()
        return {"status": self.status, "headers": [list(pair) for pair in self.headers], "body": body}


@dataclass(frozen=True)
class Received:
    """One request as the upstream saw it."""

    method: str
    url: str
    host: str
    headers: dict[str, list[str]]
    body: bytes

    @classmethod
    def read(cls, entry: dict[str, Any]) -> "Received":
        """Parse the upstream's record."""
        return cls(**{**entry, "body": base64.b64decode(entry["body"])})


@dataclass(frozen=True)
class Answer:
    """The gateway's answer to its client."""

    status: int
    headers: Headers
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The first value of a header."""
        return next(iter(self.values(name)), None)

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def upstream(self) -> Received:
        """The request as the upstream saw it, if the upstream answered with it."""
        assert self.status == 200, self
        return Received.read(self.json)


@dataclass
class Api:
    """An API of a running gateway."""

    gateway: "RunningGateway"
    definition: dict[str, Any]
    path: str = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.definition["listen_path"].rstrip("/")

    def send(
        self, method: str = "GET", path: str = ECHO_PATH, headers: Headers | None = None, body: bytes | None = None
    ) -> Answer:
        """Send a request, its path below the API's listen path."""
        return self.gateway.send(method, self.path + path, headers, body)

    @property
    def id(self) -> str:
        """The API's ID."""
        return str(self.definition["api_id"])

    def dispatches(self) -> list[tuple[str, str]]:
        """Hook type and name of each call that the gateway made for it, oldest first."""
        calls = self.gateway.ask(self.gateway.control, f"/dispatches/{self.id}")
        return [(call["hook_type"], call["hook_name"]) for call in calls]

    def events(self, count: int) -> list[tuple[str, str]]:
        """Wait for so many events; return handler and error (empty: none), in the order in which they ended."""
        ends: list[Any] = []

        def heard() -> bool:
            ends[:] = self.gateway.ask(self.gateway.control, f"/events/{self.id}")
            return len(ends) >= count

        wait_until(heard, lambda: f"{count} events of {self.id} ended: {ends}")
        return [(end["handler"], end["error"]) for end in ends]

    def received(self) -> list[Received]:
        """Return what the upstream received since the last call."""
        return [Received.read(entry) for entry in self.gateway.ask(self.gateway.upstream, "/_received")]


class RunningGateway:
    """A gateway that dials `address`, with ports of its own; stopped at the end."""

    def __init__(self, folder: Path, address: str, **config: Any) -> None:
        """`folder` is its middleware_path and holds its configuration and log; `config` as in config.go."""
        self.folder = folder
        self.public = self.control = self.upstream = ""
        self.addresses: dict[str, str] = {}
        self._config_path = folder / "gateway.json"
        self._log_path = folder / "gateway.log"
        responses = {path: canned.describe() for path, canned in config.pop("responses", {}).items()}
        self.config = {
            "coprocess_grpc_server": address,
            "middleware_path": str(folder),
            "bundle_source": str(folder),
            "responses": responses,
            **config,
        }
        self.prefix: list[str] = []
        """Prefix of its command, e.g. of another machine."""
        self._process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> str:
        """Everything it logged so far."""
        return self._log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def add_api(self, definition: dict[str, Any]) -> Api:
        """Load an API, as after Tyk's hot reload."""
        connection = http.client.HTTPConnection(self.control, timeout=PATIENCE)
        definition = with_access(definition)
        try:
            connection.request("POST", "/apis", json.dumps(definition))
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 204:
            raise ValueError(text.strip())
        self.ask(self.upstream, "/_received")  # what came before belongs to others
        return Api(self, definition)

    def session(self, key: str) -> Any:
        """Return what is stored for a key."""
        with self._redis() as client:
            text = client.get(f"apikey-{key}")
        return None if text is None else json.loads(text)

    def store_session(self, key: str, session: dict[str, Any]) -> None:
        """Store a session, as Tyk's API for keys would."""
        with self._redis() as client:
            client.set(f"apikey-{key}", json.dumps(session))

    def another(self, folder: Path, address: str) -> Self:
        """Return a gateway of the same kind that dials another address."""
        return type(self)(folder, address, redis_socket=self.config["redis_socket"])

    def send(self, method: str, path: str, headers: Headers | None = None, body: bytes | None = None) -> Answer:
        """Send one request on a connection of its own."""
        connection = self.connect()
        try:
            return exchange(connection, method, path, headers, body)
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to it, over TLS if it has a certificate."""
        if "tls_certificate" not in self.config:
            return http.client.HTTPConnection(self.public, timeout=PATIENCE)
        return http.client.HTTPSConnection(self.public, timeout=PATIENCE, context=ssl._create_unverified_context())

    def ask(self, address: str, path: str) -> Any:
        """Send a request to the control port or the upstream."""
        connection = http.client.HTTPConnection(address, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def start(self) -> Self:
        """Start it; its addresses are known when this returns. Raises ValueError with its log where it cannot start."""
        self._config_path.write_text(json.dumps(self.config))
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, go_program("gateway"), "--config", str(self._config_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise ValueError(self.log)
        self.addresses = json.loads(line)
        self.public, self.control, self.upstream = (self.addresses[key] for key in ("public", "control", "upstream"))
        return self

    def stop(self) -> int:
        """Stop it; returns its exit code."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        return process.returncode

    def _redis(self) -> "redis.Redis":
        return redis.Redis(unix_socket_path=self.config["redis_socket"])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def with_access(definition: dict[str, Any], hooks: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the definition with its kind of authentication: by an auth hook if there is one, else keyless.

    Whoever says it himself has said it. `hooks` are the manifest's, where they are not in the definition.
    """
    if not ACCESS.isdisjoint(definition):
        return definition
    named = {**definition.get("custom_middleware", {}), **(hooks or {})}
    return {**definition, "enable_coprocess_auth" if named.get("auth_check") else "use_keyless": True}


class Background:
    """One request under way in a thread of its own."""

    def __init__(self, api: Api, headers: Headers, path: str = ECHO_PATH) -> None:
        self._api = api
        self._headers = headers
        self._path = path
        self._answers: list[Answer] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def answer(self) -> Answer:
        """Wait for its answer."""
        self._thread.join(PATIENCE)
        assert self._answers, "no answer"
        return self._answers[0]

    def _run(self) -> None:
        self._answers.append(self._api.send(path=self._path, headers=self._headers))


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, headers: Headers | None, body: bytes | None
) -> Answer:
    """Send a request whose headers may have several values, and read the answer."""
    connection.putrequest(method, path, skip_accept_encoding=True)
    for key, value in headers or []:
        connection.putheader(key, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    return Answer(response.status, response.getheaders(), response.read())
