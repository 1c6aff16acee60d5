"""deploy/compose: the file is valid, its parts fit together, and the sample bundle works."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.broker import TYKPY, RunningBroker
from tests.support.root import ROOT
from tykpy.broker.config import BrokerConfig, options

SAMPLE: Final = ROOT / "deploy" / "compose"
FILE: Final = SAMPLE / "compose.yaml"
GATEWAY: Final = "/opt/tyk-gateway"


def services(compose: str) -> dict[str, Any]:
    """Return the services as Docker's own loader understands them; it fails for what it does not know."""
    done = subprocess.run([compose, FILE.name], cwd=SAMPLE, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return loaded


def mounts(service: dict[str, Any]) -> dict[str, str]:
    return {mount["target"]: mount["source"] for mount in service["volumes"]}


def test_the_loader_finds_files_and_settings_that_are_wrong(compose: str, tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text("services: {a: {image: a, read_onyl: true}}")
    assert subprocess.run([compose, str(wrong)], capture_output=True, check=False, timeout=60).returncode != 0


def test_gateway_and_broker_share_socket_bundles_and_user(compose: str) -> None:
    found = services(compose)
    broker, gateway = found["tykpy"], found["gateway"]
    shared = {target: source for target, source in mounts(broker).items() if mounts(gateway).get(target) == source}
    assert set(shared) == {"/run/tykpy", f"{GATEWAY}/middleware/bundles", f"{GATEWAY}/apps"}
    assert f"USER {gateway['user']}" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()

    settings = json.loads((SAMPLE / "tyk.conf").read_text())
    assert settings["coprocess_options"]["coprocess_grpc_server"] == "unix:///run/tykpy/tyk.sock"
    assert mounts(gateway)[settings["app_path"]] == str(SAMPLE / "apps")
    assert settings["storage"]["host"] in found


def test_the_broker_can_write_to_volumes_only_and_has_time(compose: str) -> None:
    broker, config = services(compose)["tykpy"], BrokerConfig()
    assert broker["read_only"] is True
    assert broker["cap_drop"] == ["ALL"]
    assert broker["tmpfs"] == ["/tmp"]
    assert float(broker["stop_grace_period"].rstrip("s")) > config.grace + config.event_grace
    assert set(broker["environment"]) <= {f"TYKPY_{option.name.upper()}" for option in options()}


def test_metrics_are_served_to_this_machine_only(compose: str) -> None:
    broker = services(compose)["tykpy"]
    (port,) = broker["ports"]
    assert port["host_ip"] == "127.0.0.1"
    assert broker["environment"]["TYKPY_METRICS"] == f"tcp://0.0.0.0:{port['target']}"


def test_the_sample_bundle_is_the_one_that_the_api_names(tmp_path: Path) -> None:
    (definition,) = (json.loads(path.read_text()) for path in (SAMPLE / "apps").glob("*.json"))
    name = definition["custom_middleware_bundle"]
    # As the service `downloads` does it.
    service = yaml.safe_load(FILE.read_text())["services"]["downloads"]
    build = service["command"][0].partition(" && ")[0].split()
    source = SAMPLE / "bundles" / Path(build[-1]).relative_to("/src")
    assert Path(build[-2]).name == name

    broker = RunningBroker(tmp_path)
    packed = [TYKPY, *build[1:-2], str(broker.bundles / name), str(source)]
    subprocess.run(packed, check=True, capture_output=True, timeout=60, env=os.environ)
    with broker:
        answer = broker.call("add_hello", bundle=name, hook_type="Pre")
        assert answer.request.set_headers["X-Hello"] == "from Python"
        answer = broker.call("say_hello", bundle=name, hook_type="Response", response_body=b"{}")
        assert answer.response.headers["X-Hello"] == "from Python"
