"""Section 7: grpcurl, which learns everything from server reflection, against a real broker."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.broker import PATIENCE, RunningBroker
from tests.support.gateway.go_gateway import grpcurl
from tests.support.hooks import SOURCE

PLACES: Final = ("unix", "tcp")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Run a broker that listens on a Unix socket and on TCP."""
    running = RunningBroker(tmp_path_factory.mktemp("grpcurl"))
    running.add_flags("--listen", running.address, "--listen", "tcp://127.0.0.1:0")
    running.add_file("hooks.py", SOURCE)
    with running:
        yield running


def ask(
    broker: RunningBroker, *question: str, place: str = "unix", data: Any = None
) -> subprocess.CompletedProcess[str]:
    """Run grpcurl with `data`, a message as JSON."""
    address = ["-unix", str(broker.socket)] if place == "unix" else [tcp_address(broker)]
    message = [] if data is None else ["-d", json.dumps(data)]
    command = [grpcurl(), "-plaintext", *message, *address, *question]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def tcp_address(broker: RunningBroker) -> str:
    """Return host and port from the broker's log."""
    return broker.log.partition("listening on tcp://")[2].split()[0]


@pytest.mark.parametrize("place", PLACES)
def test_grpcurl_lists_the_services(broker: RunningBroker, place: str) -> None:
    assert ask(broker, "list", place=place).stdout.split() == [
        "coprocess.Dispatcher",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


def test_grpcurl_describes_services_and_messages(broker: RunningBroker) -> None:
    service = ask(broker, "describe", "coprocess.Dispatcher").stdout
    assert "rpc Dispatch ( .coprocess.Object ) returns ( .coprocess.Object );" in service
    assert "rpc DispatchEvent ( .coprocess.Event ) returns ( .coprocess.EventReply );" in service
    message = ask(broker, "describe", ".coprocess.ReturnOverrides").stdout
    assert "int32 response_code = 1;" in message
    assert "bool override_error = 4;" in message


@pytest.mark.parametrize("service", ["", "coprocess.Dispatcher"])
def test_grpcurl_checks_health(broker: RunningBroker, service: str) -> None:
    answer = ask(broker, "grpc.health.v1.Health/Check", data={"service": service})
    assert json.loads(answer.stdout) == {"status": "SERVING"}


@pytest.mark.parametrize("place", PLACES)
def test_grpcurl_dispatches_json(broker: RunningBroker, place: str) -> None:
    request = {"method": "GET", "url": "/", "headers": {"Nonce": "seven"}, "raw_body": "/wD+"}
    obj = {"hook_type": "Pre", "hook_name": "echo", "request": request, "spec": {"APIID": "api", "OrgID": "org"}}
    answer = ask(broker, "coprocess.Dispatcher/Dispatch", place=place, data=obj)
    assert answer.returncode == 0, answer.stderr
    returned = {**request, "set_headers": {"Nonce": "seven"}, "return_overrides": {}}
    assert json.loads(answer.stdout) == {**obj, "request": returned}


def test_grpcurl_shows_code_and_message_of_an_error(broker: RunningBroker) -> None:
    answer = ask(broker, "coprocess.Dispatcher/Dispatch", data={"hook_type": "Pre", "hook_name": "ecco"})
    assert answer.returncode != 0
    assert "Code: NotFound" in answer.stderr
    assert "no bundle has a hook ecco" in answer.stderr
