"""Section 7: a gateway with `grpc_round_robin_load_balancing`, which dials every address of a name."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.gateway.gateway import Api
from tests.support.gateway.table import gateway_settings
from tests.support.gateway.tyk import any_gateway
from tests.support.hooks import SOURCE
from tests.support.peers.name_server import running_name_server
from tests.support.peers.redis_server import free_port, running_redis

ADDRESSES: Final = ("127.0.0.2", "127.0.0.3")
NAME: Final = "brokers.test"
HOOKS: Final = {"driver": "grpc", "pre": [{"name": "add_header"}]}


@contextmanager
def api_at(address: str, folder: Path, **config: object) -> Iterator[Api]:
    """Run a gateway that balances over the addresses of `address`, and yield an API of it."""
    keys_folder = folder / "redis"
    keys_folder.mkdir()
    with running_redis(keys_folder) as keys:
        settings = {**gateway_settings(keys), "grpc_round_robin_load_balancing": True, **config}
        with any_gateway(folder, address, direct=True, **settings) as gateway:
            yield gateway.add_api(
                {"api_id": "api", "org_id": "org", "listen_path": "/api/", "custom_middleware": HOOKS}
            )


def broker_at(folder: Path, host: str, port: int) -> RunningBroker:
    """Return a broker that listens on one of the addresses."""
    folder.mkdir()
    broker = RunningBroker(folder, "--listen", f"tcp://{host}:{port}")
    broker.add_file("hooks.py", SOURCE)
    return broker


def worker_of(api: Api) -> str:
    """Make one call and return the process that ran its hook."""
    return api.send().upstream.headers["X-Worker"][0]


@pytest.fixture
def balanced(tmp_path: Path) -> Iterator[Api]:
    """Yield an API of a gateway that is connected to two brokers behind one name."""
    port = free_port()
    with ExitStack() as stack:
        for host in ADDRESSES:
            stack.enter_context(broker_at(tmp_path / host, host, port))
        dns_port = stack.enter_context(running_name_server(NAME, ADDRESSES))
        target = f"dns://127.0.0.1:{dns_port}/{NAME}:{port}"
        api = stack.enter_context(api_at(target, tmp_path))
        wait_until(lambda: len({worker_of(api), worker_of(api)}) == 2, lambda: api.gateway.log)
        yield api


def test_a_dns_target_with_one_address_works(tmp_path: Path) -> None:
    port = free_port()
    with broker_at(tmp_path / "broker", "localhost", port), api_at(f"dns:///localhost:{port}", tmp_path) as api:
        assert api.send().status == 200


def test_the_authority_may_be_any(tmp_path: Path) -> None:
    port = free_port()
    with broker_at(tmp_path / "broker", "localhost", port):
        with api_at(f"dns:///localhost:{port}", tmp_path, grpc_authority="plugins.example.com") as api:
            assert api.send().status == 200


def test_round_robin_alternates_between_all_addresses(balanced: Api) -> None:
    assert sorted(Counter(worker_of(balanced) for _ in range(20)).values()) == [10, 10]
