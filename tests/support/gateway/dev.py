"""`tykpy dev` in place of the gateway of tests/gateway, before the same broker.

Its upstream, its bundle server and the list of its calls are those of the gateway of tests/gateway, which runs beside
it: calls pass through that one's relay.
"""

import http.client
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.support.broker import PATIENCE, TYKPY, wait_until
from tests.support.gateway.gateway import Api, RunningGateway, with_access
from tests.support.gateway.tyk_definitions import classic, oas

NAME: Final = "dev"
LEFT_OUT: Final = {"virtual": "virtual endpoints are JavaScript"}
"""Fields of definitions that `tykpy dev` does not know, and why."""
KEPT: Final = 20
"""APIs that are served at a time: each is read again whenever one is added."""
ONE_FORM: Final = {"mock_response": oas, "event_handlers": classic, "reply": classic}
"""Fields of definitions that only one form has."""


class DevTableGateway(RunningGateway):
    """The command, with API definitions in a folder of its own, classic and OAS by turns."""

    def __init__(self, folder: Path, address: str, **config: Any) -> None:
        """As for RunningGateway."""
        super().__init__(folder, address, **config)
        self._dev: subprocess.Popen[bytes] | None = None
        self._dev_log = folder / "dev.log"
        self._definitions = folder / "apps"
        self._forms = itertools.cycle((classic, oas))

    @property
    def log(self) -> str:
        """Everything that it and its companion logged so far."""
        return super().log + self._dev_log.read_text(errors="replace")

    def start(self) -> Self:
        """Start it; it takes requests when this returns."""
        super().start()
        self._definitions.mkdir()
        bundles = Path(self.config["middleware_path"]) / "bundles"
        bundles.mkdir(exist_ok=True)
        policies = self.folder / "policies.json"
        policies.write_text(json.dumps(self.config.get("policies", {})))
        options = ["--api", str(self._definitions), "--policies", str(policies), "--upstream", "api", "--port", "0"]
        command = [TYKPY, "dev", str(bundles), "--broker", f"tcp://{self.addresses['relay']}", *options]
        with self._dev_log.open("ab") as log:
            self._dev = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._listens, lambda: self.log)
        port = self._dev_log.read_text().partition("http://localhost:")[2].partition(" ")[0]
        self.public = f"127.0.0.1:{port}"
        return self

    def stop(self) -> int:
        """Stop it; returns its companion's exit code."""
        if self._dev is not None:
            self._dev.terminate()
            self._dev.wait(PATIENCE)
        return super().stop()

    def add_api(self, definition: dict[str, Any]) -> Api:
        """Load an API. Raises ValueError with its problems where it does not."""
        for field, why in LEFT_OUT.items():
            if field in definition:
                pytest.skip(f"tykpy dev leaves this out: {why}")
        api = super().add_api(definition)
        definition = with_access(definition)
        target = definition.get("target_url") or f"http://{self.upstream}"
        form = next((ONE_FORM[field] for field in ONE_FORM if field in definition), next(self._forms))
        path = self._definitions / f"{definition['api_id']}.json"
        path.write_text(json.dumps(form(definition, target)))
        for old in sorted(self._definitions.iterdir(), key=lambda one: one.stat().st_mtime_ns)[:-KEPT]:
            old.unlink()
        state = self._administer("POST", "reload")
        if definition["api_id"] not in [one["api_id"] for one in state["apis"]]:
            path.unlink()
            raise ValueError("\n".join(state["problems"]))
        return api

    def session(self, key: str) -> Any:
        """Return what is stored for a key."""
        return self._administer("GET", f"keys/{key}")

    def store_session(self, key: str, session: dict[str, Any]) -> None:
        """Store a session."""
        self._administer("PUT", f"keys/{key}", session)

    def _administer(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection(self.public, timeout=PATIENCE)
        try:
            connection.request(method, f"/__tykpy/{path}", json.dumps(body) if body else None, {"X-Tykpy": "1"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        assert response.status in (200, 204, 404), text
        return json.loads(text) if response.status == 200 else None

    def _listens(self) -> bool:
        assert self._dev is not None
        assert self._dev.poll() is None, self.log
        return "http://localhost:" in self._dev_log.read_text()
