"""A real Tyk Gateway in place of the one of tests/gateway, from the user's binary.

`TYK=/path/to/tyk` names it. Its upstream, its bundle server and the list of its calls are those of the gateway of
tests/gateway, which runs beside it: calls pass through that one's relay, unless `direct` is configured.
"""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.support.broker import PATIENCE, wait_until
from tests.support.gateway.dev import NAME as DEV
from tests.support.gateway.dev import DevTableGateway
from tests.support.gateway.gateway import Api, RunningGateway, with_access
from tests.support.gateway.tyk_definitions import classic, oas
from tests.support.peers.redis_server import free_port

BINARY: Final = os.environ.get("TYK", "")
STYLES: Final = ("classic", "oas")
ONE_STYLE: Final = {
    "event_handlers": ("classic", "handlers of events that a hook answers"),
    "reply": ("classic", "paths with the action reply"),
    "mock_response": ("oas", "mock responses"),
}
"""Fields of definitions that only one style has."""
OK: Final = 200
SECRET: Final = "secret"
_TEMPLATES: Final = {
    "error.json": '{\n    "error": "{{.Message}}"\n}',
    "error.xml": '<?xml version = "1.0" encoding = "UTF-8"?>\n<error>{{.Message}}</error>',
}


def any_gateway(folder: Path, address: str, *, style: str = "classic", **config: Any) -> RunningGateway:
    """Return the user's gateway if there is one, else that of tests/gateway; with the style "dev", `tykpy dev`."""
    if style == DEV:
        return DevTableGateway(folder, address, **config)
    if BINARY:
        return TykGateway(folder, address, style=style, **config)
    return RunningGateway(folder, address, **config)


class TykGateway(RunningGateway):
    """A gateway from the binary, with APIs in classic or OAS form."""

    def __init__(self, folder: Path, address: str, *, style: str = "classic", **config: Any) -> None:
        """As for RunningGateway; `style` is "classic" or "oas"."""
        super().__init__(folder, address, **config)
        self.style = style
        self._tyk: subprocess.Popen[bytes] | None = None
        self._tyk_log = folder / "tyk.log"

    @property
    def log(self) -> str:
        """Everything that the gateway and its companion logged so far."""
        return super().log + self._tyk_log.read_text(errors="replace")

    def start(self) -> Self:
        """Start it; it takes requests when this returns. Raises ValueError with its log where it cannot start."""
        super().start()
        port = free_port()
        self.public = f"127.0.0.1:{port}"
        path = self.folder / "tyk.conf"
        path.write_text(json.dumps(self._settings(port)))
        with self._tyk_log.open("ab") as log:
            self._tyk = subprocess.Popen([BINARY, "--conf", str(path)], cwd=self.folder, stdout=log, stderr=log)
        wait_until(self._answers, lambda: self.log)
        return self

    def stop(self) -> int:
        """Stop it; returns its exit code."""
        if self._tyk is not None:
            self._tyk.send_signal(signal.SIGTERM)
            self._tyk.wait(PATIENCE)
        return super().stop()

    def add_api(self, definition: dict[str, Any]) -> Api:
        """Load an API. Raises ValueError with its log where it does not."""
        definition = with_access(definition)
        path, body = self._in_style(definition)
        self._administer("POST", path, body)
        self._administer("GET", "/tyk/reload?block=true")
        if self._administer("GET", f"/tyk/apis/{definition['api_id']}") != OK:
            raise ValueError(self.log)
        self.ask(self.upstream, "/_received")
        return Api(self, definition)

    def load_verbatim(self, definition: dict[str, Any]) -> None:
        """Load a definition in classic or OAS form. Raises ValueError with its log."""
        path = "/tyk/apis/oas" if "openapi" in definition else "/tyk/apis"
        if self._administer("POST", path, definition) != OK:
            raise ValueError(self.log)
        self._administer("GET", "/tyk/reload?block=true")

    def _settings(self, port: int) -> dict[str, Any]:
        for name in ("apps", "templates"):
            (self.folder / name).mkdir(exist_ok=True)
        for name, text in _TEMPLATES.items():
            (self.folder / "templates" / name).write_text(text)
        policies = self.folder / "policies.json"
        policies.write_text(json.dumps(self._policies()))
        coprocess = {key: value for key, value in self.config.items() if key.startswith("grpc_")}
        return {
            "listen_address": "127.0.0.1",
            "listen_port": port,
            "secret": SECRET,
            "template_path": str(self.folder / "templates"),
            "app_path": str(self.folder / "apps"),
            "middleware_path": self.config["middleware_path"],
            "storage": {"type": "redis", "addrs": [self.config.get("redis_socket", "")]},
            "policies": {"policy_source": "file", "policy_record_name": str(policies)},
            "enable_analytics": False,
            "enable_jsvm": True,
            "http_server_options": self._tls(),
            "allow_master_keys": True,
            "hash_keys": False,
            "log_level": "debug",
            "enable_bundle_downloader": True,
            "bundle_base_url": f"http://{self.control}/bundles/",
            "public_key_path": self.config.get("public_key_path", ""),
            "local_session_cache": {"disable_cached_session_state": True},
            "suppress_redis_signal_reload": True,
            "reload_interval": 0,
            "coprocess_options": {"enable_coprocess": True, "coprocess_grpc_server": self._target(), **coprocess},
        }

    def _tls(self) -> dict[str, Any]:
        if "tls_certificate" not in self.config:
            return {}
        files = {"cert_file": self.config["tls_certificate"], "key_file": self.config["tls_key"]}
        return {"use_ssl": True, "certificates": [{"domain_name": "localhost", **files}]}

    def _policies(self) -> dict[str, Any]:
        """Return the policies, for the organisation of the table's APIs."""
        given = self.config.get("policies", {})
        return {name: {"id": name, "org_id": self.config["org_id"], "active": True, **of} for name, of in given.items()}

    def _target(self) -> str:
        return str(
            self.config["coprocess_grpc_server"] if self.config.get("direct") else f"tcp://{self.addresses['relay']}"
        )

    def _answers(self) -> bool:
        assert self._tyk is not None
        if self._tyk.poll() is not None:
            raise ValueError(self.log)
        try:
            return self._administer("GET", "/hello") == 200
        except OSError:
            return False

    def _administer(self, method: str, path: str, body: dict[str, Any] | None = None) -> int:
        connection = self.connect()
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"x-tyk-authorization": SECRET})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def _in_style(self, definition: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        target = definition.get("target_url") or f"http://{self.upstream}"
        for field, (style, what) in ONE_STYLE.items():
            if field in definition and self.style != style:
                pytest.skip(f"{what} exist in {style} definitions only")
        if self.style == "oas":
            return "/tyk/apis/oas", oas(definition, target)
        return "/tyk/apis", classic(definition, target)
