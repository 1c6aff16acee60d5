"""A development gateway in the test's process: definitions and bundles as files, hooks in this process, no HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.bundles import write_bundle
from tykpy.devserver.definitions.api import Api
from tykpy.devserver.gateway import DevFiles, DevGateway
from tykpy.devserver.hooks.local import LocalHooks
from tykpy.devserver.identity.keys import Keys
from tykpy.devserver.messages import GatewayRequest, GatewayResponse
from tykpy.devserver.trace import Trace

BODY: Final = b"of the upstream"


@dataclass
class FixedUpstream:
    """Answers every request with one response."""

    response: GatewayResponse = field(
        default_factory=lambda: GatewayResponse(200, {"Server": ["x"]}, b"of the upstream")
    )
    received: list[GatewayRequest] = field(default_factory=list)

    def url_for(self, api: Api) -> str:
        """Return a URL that leads nowhere."""
        return "http://upstream.test/base"

    async def send(self, request: GatewayRequest) -> GatewayResponse:
        """Remember the request."""
        self.received.append(request.copy())
        return self.response.copy()


@dataclass
class Served:
    """A gateway and its upstream."""

    gateway: DevGateway
    upstream: FixedUpstream

    async def get(self, url: str = "/", **request: Any) -> Trace:
        """Send a request; `headers` may have one value each."""
        headers = {name: [value] for name, value in request.pop("headers", {}).items()}
        return await self.gateway.handle(GatewayRequest(url=url, headers=headers, **request))


@asynccontextmanager
async def serving(
    folder: Path, source: str, api: dict[str, Any] | None = None, keys: Keys | None = None, **middleware: Any
) -> AsyncIterator[Served]:
    """Serve a bundle with this `middleware.py`; `api` is a definition, `middleware` the hooks of the manifest."""
    bundle = write_bundle(
        folder / "bundle", {"middleware.py": source}, **{key: _entries(of) for key, of in middleware.items()}
    )
    definitions = []
    if api is not None:
        definitions.append(folder / "api.json")
        definitions[0].write_text(json.dumps({"api_id": "an-api", "org_id": "an-org", **api}, indent=1))
    upstream = FixedUpstream()
    gateway = DevGateway(DevFiles(bundle, tuple(definitions)), LocalHooks([bundle]), upstream, keys)
    try:
        await gateway.load()
        yield Served(gateway, upstream)
    finally:
        await gateway.close()


def _entries(value: Any) -> Any:
    if isinstance(value, list):
        return [_entries(entry) for entry in value]
    return {"name": value} if isinstance(value, str) else value
