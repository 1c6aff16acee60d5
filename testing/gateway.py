"""A gateway in the process of a test: requests to hooks, in Tyk's order, before an upstream of the test's choice."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from tyk.gateway.testing import FakeGateway, TriggeredEvent
from tykpy.commands.private_broker import PrivateBroker
from tykpy.devserver.definitions.api import Api
from tykpy.devserver.gateway import DevFiles, DevGateway, LoadingHooks
from tykpy.devserver.hooks.broker import BrokerHooks
from tykpy.devserver.hooks.local import LocalHooks
from tykpy.devserver.identity.keys import Keys
from tykpy.devserver.identity.sessions import session_of
from tykpy.devserver.messages import GatewayRequest, GatewayResponse, first_values, values_of
from tykpy.devserver.pipeline import Upstream
from tykpy.devserver.trace import Trace
from tykpy.devserver.upstream import HttpUpstream
from tykpy.testing.result import Headers

HOOK_SECONDS: Final = 30.0
"""How long a hook of a real pool may take."""
_T = TypeVar("_T")

Answer: TypeAlias = tuple[int, Mapping[str, str], bytes | str]
"""Status, headers and body of an upstream's response."""


class GatewayReply:
    """The response to one request."""

    def __init__(self, trace: Trace, response: GatewayResponse) -> None:
        self.trace = trace
        """What happened: each hook with its changes (`trace.hook(name)`), and what the gateway did by itself."""
        self.status_code = response.status
        self.headers = Headers(first_values(response.headers))
        """The first value of each header; the case of names does not matter."""
        self.content = response.body

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Return the body, parsed as JSON."""
        return json.loads(self.content)

    def __repr__(self) -> str:
        return f"<GatewayReply {self.status_code} {self.text[:200]!r}>"


class FunctionUpstream:
    """An upstream that is a function of the test."""

    def __init__(self, function: Callable[[GatewayRequest], Answer]) -> None:
        self._function = function

    def url_for(self, api: Api) -> str:
        """Return a URL that leads nowhere."""
        return "http://upstream.invalid"

    async def send(self, request: GatewayRequest) -> GatewayResponse:
        """Call the function."""
        status, headers, body = self._function(request)
        return GatewayResponse(status, values_of(headers.items()), body.encode() if isinstance(body, str) else body)


class GatewayClient:
    """Sends requests to a gateway that runs on an event loop of its own, in a thread."""

    def __init__(
        self,
        fake: FakeGateway,
        bundle: Path,
        *,
        apis: Iterable[Path] = (),
        upstream: str | Callable[[GatewayRequest], Answer] = "echo",
        keys: Mapping[str, Mapping[str, Any]] | None = None,
        workers: int = 0,
    ) -> None:
        """Load a bundle (or a folder of bundles) and API definitions; see `tyk_gateway`. Raises AssertionError."""
        self._fake = fake
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tyk_gateway", daemon=True)
        self._thread.start()
        self._broker = PrivateBroker([bundle], workers) if workers else None
        try:
            if self._broker is not None:
                self._broker.start()
            self._gateway = self._run(self._open(bundle, apis, upstream, keys or {}))
        except BaseException:
            self._end()
            raise

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | str = b"",
        json: object = None,
    ) -> GatewayReply:
        """Send a request for a path and query; `json` is a body to encode.

        Raises ConnectionError where a gateway would close the connection without an answer.
        """
        sent = dict(headers or {})
        body = data.encode() if isinstance(data, str) else data
        if json is not None:
            body = _json_bytes(json)
            sent.setdefault("Content-Type", "application/json")
        host = next((value for name, value in sent.items() if name.lower() == "host"), "localhost")
        values = values_of((name, value) for name, value in sent.items() if name.lower() != "host")
        request = GatewayRequest(method, url, values, host, body, client="127.0.0.1:0")
        trace = self._run(self._gateway.handle(request))
        for hook in trace.hooks:
            self._fake.events.extend(TriggeredEvent(one.name, one.payload) for one in hook.answer.triggered)
        if trace.response is None:
            raise ConnectionError(trace.error or "the gateway closed the connection without an answer")
        return GatewayReply(trace, trace.response)

    def get(self, url: str, **options: Any) -> GatewayReply:
        """Send a GET request, with the options of `request`."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> GatewayReply:
        """Send a POST request."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> GatewayReply:
        """Send a PUT request."""
        return self.request("PUT", url, **options)

    def delete(self, url: str, **options: Any) -> GatewayReply:
        """Send a DELETE request."""
        return self.request("DELETE", url, **options)

    def close(self) -> None:
        """End the gateway, and the pool if there is one."""
        try:
            self._run(self._gateway.close())
        finally:
            self._end()

    async def _open(
        self,
        bundle: Path,
        apis: Iterable[Path],
        upstream: str | Callable[[GatewayRequest], Answer],
        keys: Mapping[str, Mapping[str, Any]],
    ) -> DevGateway:
        hooks: LoadingHooks
        if self._broker is not None:
            hooks = BrokerHooks(self._broker.address, HOOK_SECONDS)
        else:
            hooks = LocalHooks([bundle], self._fake.storage)
        target: Upstream = HttpUpstream(upstream) if isinstance(upstream, str) else FunctionUpstream(upstream)
        known = Keys(clock=self._fake.clock.time)
        for key, session in keys.items():
            known.store(key, session_of(session, key))
        gateway = DevGateway(DevFiles(bundle, tuple(apis)), hooks, target, known)
        loading = await gateway.load()
        if loading.problems:
            await gateway.close()
            raise AssertionError("; ".join(problem.message for problem in loading.problems))
        return gateway

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._broker is not None:
            self._broker.stop()


def _json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()
