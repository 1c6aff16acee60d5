"""Redis killed, paused, slow and full under a broker that serves: dispatches go on, and storage answers in time.

Each outage lasts until calls that use storage have gone through it. What they may take is the storage's own limit
(`tests/faults/storage/test_redis_outages.py`); here it is measured, and that nothing else waits.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.peers.load import Load
from tests.support.peers.redis_server import RedisServer

HOOKS = """
import os, time
from tyk.decorators import Pre
from gateway import TykGateway as tyk

def echo(request):
    request.add_header("Nonce", request.get_header("Nonce"))
    request.add_header("X-Worker", str(os.getpid()))

@Pre
def plain(request, session, spec):
    echo(request)
    return request, session

@Pre
def stores(request, session, spec):
    start = time.monotonic()
    tyk.store_data("key", "value", 60)
    request.add_header("Stored", tyk.get_data("key").decode())
    request.add_header("Seconds", str(time.monotonic() - start))
    echo(request)
    return request, session
"""
GO_SECONDS, STOP_SECONDS = 0.01, 0.1
"""How long a slow Redis runs, and is away."""


@contextlib.contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextlib.contextmanager
def slow(server: RedisServer) -> Iterator[None]:
    """It answers, most of the time after having been away for a while."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.wait(GO_SECONDS):
            server.pause()
            over.wait(STOP_SECONDS)
            server.resume()

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def full(server: RedisServer) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


Outage = Callable[[RedisServer], contextlib.AbstractContextManager[None]]
OUTAGES: tuple[Outage, ...] = (killed, paused, slow, full)


def storage_works(broker: RunningBroker) -> bool:
    answer = broker.call("stores", bundle="storing", headers=[("Nonce", "-")])
    return answer.request.set_headers["Stored"] == "value"


def go_through(folder: Path, outages: list[Outage]) -> None:
    server = RedisServer(folder)
    server.start()
    seconds: list[float] = []
    try:
        with running_broker(folder, "--redis", server.url, workers=2, files={"storing.py": HOOKS}) as broker:
            wait_until(lambda: storage_works(broker), lambda: broker.log)
            with Load(broker.address, "plain", "storing", callers=2) as load:
                for outage in outages:
                    with outage(server):
                        for _ in range(4):
                            seconds.append(time_of_storing(broker))
                        load.wait_for_more(20)
                    wait_until(lambda: storage_works(broker), lambda: broker.log)
            load.check()
            assert not load.errors
            broker.check_accounts()
            assert broker.status()["restarts"] == 0
    finally:
        server.stop()
    print(
        f"{len(outages)} outages, {len(seconds)} calls that store and get: at most {max(seconds) * 1e3:.0f} ms; {load}"
    )


def time_of_storing(broker: RunningBroker) -> float:
    """Make a call that stores and gets; returns what that took within the hook."""
    answer = broker.call("stores", bundle="storing", headers=[("Nonce", str(time.monotonic_ns()))])
    return float(answer.request.set_headers["Seconds"])


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)
def test_dispatches_go_on_through_an_outage(tmp_path: Path, outage: Outage) -> None:
    go_through(tmp_path, [outage])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_40_outages_in_any_order(tmp_path: Path) -> None:
    outages = [*OUTAGES] * 10
    random.Random(40).shuffle(outages)
    go_through(tmp_path, outages)
