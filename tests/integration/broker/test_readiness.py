"""`/livez`, `/readyz`, gRPC health and `tykpy health` of real brokers."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.broker import PATIENCE, TYKPY, stop_process, wait_until
from tests.support.metrics import MeteredBroker, UnixHttp
from tykpy.broker.observe.source import MAX_BUNDLES

GOOD = "from tyk.decorators import Pre\n\n\n@Pre\ndef fine(request, session, spec):\n    return request, session\n"
BROKEN = "raise ValueError('not today')\n"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class ProbedBroker(MeteredBroker):
    """A broker and what probes it."""

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body."""
        with contextlib.closing(UnixHttp(self.http_socket)) as connection:
            response = connection.get(path)
            return response.status, response.read().decode()

    def reasons(self) -> list[str]:
        """Return why it is not ready, by `/readyz`."""
        status, body = self.get("/readyz")
        found: dict[str, Any] = json.loads(body)
        assert (status == 200) == found["ready"] == (not found["reasons"])
        return [one["reason"] for one in found["reasons"]]

    def health(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run `tykpy health`."""
        command = [TYKPY, "health", "--runtime-dir", str(self.runtime), *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def serves(self, service: str) -> int:
        """Return the status of a service, by gRPC."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE).status)


def probed(folder: Path, files: dict[str, str], *flags: str) -> ProbedBroker:
    broker = ProbedBroker(folder, *flags)
    for name, text in files.items():
        broker.add_file(name, text)
    return broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbedBroker]:
    """A broker with a good bundle and a broken one."""
    with probed(tmp_path_factory.mktemp("readiness"), {"good.py": GOOD, "broken.py": BROKEN}) as one:
        yield one


def test_a_broker_with_a_loaded_bundle_is_ready(broker: ProbedBroker) -> None:
    assert broker.get("/livez") == (200, "ok\n")
    assert broker.reasons() == []
    assert broker.serves("") == broker.serves("coprocess.Dispatcher") == broker.serves("bundle/good.py") == SERVING
    assert broker.serves("bundle/broken.py") == NOT_SERVING
    with pytest.raises(grpc.RpcError) as error:
        broker.serves("bundle/nobody")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    done = broker.health("--ready")
    assert (done.returncode, done.stdout) == (0, "ready: 1 of 1 workers\n")


def test_only_broken_bundles_are_not_ready_at_first(tmp_path: Path) -> None:
    with probed(tmp_path, {"broken.py": BROKEN}) as broker:
        assert broker.get("/livez")[0] == 200
        assert broker.reasons() == ["bundles"]
        assert broker.serves("") == NOT_SERVING
        assert broker.health().returncode == 0
        done = broker.health("--ready")
        assert done.returncode == 1
        assert "bundles: no bundle is loaded (--require-bundles any)" in done.stderr
        with grpc.insecure_channel(f"unix:{broker.socket}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert next(watch).status == NOT_SERVING
            broker.add_file("good.py", GOOD)
            assert next(watch).status == SERVING
            watch.cancel()
        assert "not ready: no bundle is loaded (--require-bundles any)" in broker.log
        broker.wait_for_log("ready: the required bundles are loaded")
        wait_until(lambda: broker.reasons() == [], lambda: str(broker.reasons()))


@pytest.mark.parametrize("required", ["all", "broken.py"])
def test_required_bundles_have_to_be_loaded(tmp_path: Path, required: str) -> None:
    with probed(tmp_path, {"good.py": GOOD, "broken.py": BROKEN}, "--require-bundles", required) as broker:
        assert broker.reasons() == ["bundles"]
        assert "broken.py" in broker.health("--ready").stderr
        assert broker.log.count("not ready: broken.py") == 1


def test_a_broker_without_bundles_is_ready(tmp_path: Path) -> None:
    with probed(tmp_path, {}) as broker:
        assert broker.reasons() == []


def test_a_stuck_event_loop_is_neither_alive_nor_ready(broker: ProbedBroker) -> None:
    """A process that is stopped shows it through shared memory; see test_admin_page.py for a loop that is stuck."""
    stop_process(broker.pid)
    try:
        wait_until(lambda: broker.health().returncode == 1, lambda: broker.health().stdout)
        said = broker.health("--ready").stderr
        assert "has not turned for" in said
        assert f"its process is stopped (kill -CONT {broker.pid} lets it go on)" in said
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    wait_until(lambda: broker.health("--ready").returncode == 0, lambda: broker.health("--ready").stderr)


def test_health_asks_a_broker_at_an_address(broker: ProbedBroker) -> None:
    done = broker.health("--ready", "--connect", broker.address)
    assert (done.returncode, done.stdout) == (0, f"the broker at {broker.address} is SERVING\n")
    done = broker.health("--ready", "--connect", broker.address, "--service", "bundle/broken.py")
    assert done.returncode == 1
    assert "bundle/broken.py" in done.stderr
    assert broker.health("--service", "bundle/good.py").returncode == 2


def test_health_without_a_broker_fails(tmp_path: Path) -> None:
    with probed(tmp_path, {}).unready() as broker:
        broker.stop()
        done = broker.health()
        assert done.returncode == 1
        assert "no broker runs" in done.stderr
        assert broker.health("--connect", broker.address).returncode == 1


def test_a_required_bundle_may_be_one_of_many(tmp_path: Path) -> None:
    """A snapshot shows fewer bundles than there are here; all of them are judged."""
    files = {f"bundle{number:04}.py": GOOD for number in range(MAX_BUNDLES + 1)}
    with probed(tmp_path, files, "--require-bundles", max(files)) as broker:
        assert broker.reasons() == []
        assert {broker.serves(f"bundle/{name}") for name in (min(files), max(files))} == {SERVING}
