"""The README's steps from a bundle to an answered request, with the printed API definitions."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import TYKPY, RunningBroker
from tests.support.gateway.gateway import Api, RunningGateway
from tests.support.gateway.go_gateway import go_program
from tests.support.gateway.tyk import STYLES, TykGateway, any_gateway
from tests.support.peers.redis_server import running_redis
from tests.support.readme import first_middleware, json_block

PORT = "127.0.0.1:9000"
"""The upstream in the printed definitions."""


def printed(style: str) -> dict[str, Any]:
    found: dict[str, Any] = json_block('"x-tyk-api-gateway"' if style == "oas" else '"custom_middleware_bundle"')
    return found


def load(gateway: RunningGateway, style: str, definition: dict[str, Any]) -> Api:
    """Load a printed definition: a Tyk Gateway takes it unchanged, the test gateway the fields that it knows."""
    if style == "oas":
        extension = definition["x-tyk-api-gateway"]
        bundle = extension["middleware"]["global"]["pluginConfig"]["bundle"]
        known = {
            "api_id": extension["info"]["id"],
            "org_id": extension["info"]["orgId"],
            "listen_path": extension["server"]["listenPath"]["value"],
            "custom_middleware_bundle": bundle["path"] if bundle["enabled"] else "",
        }
    else:
        known = {name: definition[name] for name in ("api_id", "org_id", "custom_middleware_bundle")}
        known["listen_path"] = definition["proxy"]["listen_path"]
    if isinstance(gateway, TykGateway):
        gateway.load_verbatim(json.loads(json.dumps(definition).replace(PORT, gateway.upstream)))
        return Api(gateway, known)
    return gateway.add_api({**known, "use_keyless": True})


@pytest.mark.parametrize("style", STYLES)
def test_the_printed_definitions_lead_to_an_answer(tmp_path: Path, style: str) -> None:
    go_program("gateway")
    source, apps = tmp_path / "hello", tmp_path / "apps"
    for folder in (source, apps):
        folder.mkdir()
    (source / "middleware.py").write_text(first_middleware())
    (source / "manifest.json").write_text(json.dumps(json_block('"file_list"')))
    subprocess.run([TYKPY, "bundle", "build", source, "-o", tmp_path / "hello.zip"], check=True, capture_output=True)
    definition = printed(style)
    (apps / "printed.json").write_text(json.dumps(definition))
    redis_folder = tmp_path / "redis"
    redis_folder.mkdir()
    with running_redis(redis_folder) as keys, RunningBroker(tmp_path, "--apis", str(apps)) as broker:
        with any_gateway(tmp_path, broker.address, style=style, redis_socket=str(keys.socket)) as gateway:
            answer = load(gateway, style, definition).send()
            assert answer.upstream.headers["X-Hello"] == ["from Python"]
            (bundle,) = broker.status()["bundles"]
            assert (bundle["bundle"], bundle["apis"]) == ("hello.zip", [{"id": "hello", "name": "Hello"}])


def test_the_printed_inline_hooks_are_found_by_name(tmp_path: Path) -> None:
    go_program("gateway")
    inline = json_block('"custom_middleware": {"driver": "grpc"', without='"file_list"')
    redis_folder = tmp_path / "redis"
    redis_folder.mkdir()
    with running_redis(redis_folder) as keys, RunningBroker(tmp_path) as broker:
        broker.add_file("hello.py", first_middleware())
        with any_gateway(tmp_path, broker.address, redis_socket=str(keys.socket)) as gateway:
            definition = {"api_id": "inline", "org_id": "default", "listen_path": "/inline/", "use_keyless": True}
            answer = gateway.add_api({**definition, **inline}).send()
            assert answer.upstream.headers["X-Hello"] == ["from Python"]
