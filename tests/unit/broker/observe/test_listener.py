"""The HTTP thread: bounded in every way, and answering while the broker's event loop is stuck."""

import asyncio
import http.client as http_client
import json
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from prometheus_client.openmetrics import parser as openmetrics

from tests.support.metrics import Metrics, UnixHttp
from tests.support.snapshots import a_snapshot
from tykpy.broker.net.sockets import listen
from tykpy.broker.observe import http, listener
from tykpy.broker.observe.http import HttpRequest, HttpResponse, Routes
from tykpy.broker.observe.listener import HttpListener, Snapshots
from tykpy.broker.observe.probes import LiveProbe, ReadyProbe
from tykpy.broker.observe.prometheus import MetricsPage
from tykpy.broker.observe.source import PackedSnapshot, SnapshotSource
from tykpy.broker.pool.plugin_metrics import PluginMetrics
from tykpy.telemetry.snapshot import HookSeries, encode_snapshot

HOSTILE = 'a"b\\c\nd{e="f"} # é'


class StuckSource:
    """Has one snapshot, an hour old; no other is ever taken, as the event loop is stuck."""

    def __init__(self) -> None:
        series = [HookSeries(HOSTILE, name, "Pre", "OK") for name in ("hook", "other", "other")]
        for one in series:
            one.dispatch_counts[3] = one.wait_counts[1] = one.hook_counts[2] = 5
        time_ns = time.monotonic_ns() - 3_600 * 10**9
        self.last = PackedSnapshot(encode_snapshot(a_snapshot(time_ns=time_ns, series=series)), time_ns)

    def renew(self) -> None:
        raise AssertionError("the event loop does not turn")


async def ok(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"ok")


async def fails(_request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The socket of a listener whose broker's event loop never turns."""
    monkeypatch.setattr(listener, "PATIENCE", 0.05)
    path = tmp_path / "http.sock"
    listening = listen(f"unix://{path}")
    stuck = asyncio.new_event_loop()
    snapshots = Snapshots(cast(SnapshotSource, StuckSource()), stuck)
    routes: Routes = {
        "/metrics": MetricsPage(snapshots, PluginMetrics()),
        "/livez": LiveProbe(snapshots),
        "/readyz": ReadyProbe(snapshots),
        "/fails": fails,
    }
    thread = HttpListener(listening, routes, None)
    thread.start()
    yield path
    thread.close()
    listening.close()
    stuck.close()


@pytest.fixture
def client(address: Path) -> Iterator[UnixHttp]:
    connection = UnixHttp(address)
    yield connection
    connection.close()


def test_a_stuck_event_loop_shows_as_an_age(client: UnixHttp) -> None:
    metrics = Metrics(client.get("/metrics").read().decode())
    assert metrics("tykpy_snapshot_age_seconds") >= 3_600
    assert metrics("tykpy_queue_depth") == 2


def test_hostile_names_are_escaped(client: UnixHttp) -> None:
    metrics = Metrics(client.get("/metrics").read().decode())
    assert metrics("tykpy_dispatch_duration_seconds_count", bundle=HOSTILE, hook="hook") == 5


def test_series_of_the_same_labels_are_added_up(client: UnixHttp) -> None:
    metrics = Metrics(client.get("/metrics").read().decode())
    assert metrics("tykpy_dispatch_duration_seconds_count", hook="other") == 10


def test_openmetrics_is_served_if_it_is_accepted(client: UnixHttp) -> None:
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    found = openmetrics.text_string_to_metric_families(response.read().decode())  # type: ignore[no-untyped-call]
    families = {family.name: family for family in found}
    names = {label for sample in families["tykpy_hook_duration_seconds"].samples for label in sample.labels.values()}
    assert HOSTILE in names


@pytest.mark.parametrize("version", ["abc", "", "1.x", "1.0.0.0.0.0", "-1", "9" * 5_000])
def test_a_version_that_is_none_gets_the_oldest_format(client: UnixHttp, version: str) -> None:
    response = client.get("/metrics", headers={"Accept": f"application/openmetrics-text;version={version}"})
    assert response.status == 200


def test_a_connection_serves_many_requests(client: UnixHttp) -> None:
    for _ in range(3):
        assert client.get("/metrics").read()
    assert client.get("/metrics", method="HEAD").read() == b""
    response = client.get("/nowhere")
    assert (response.status, response.read()) == (404, b"not found; there are /fails, /livez, /metrics, /readyz\n")
    response = client.get("/fails")
    assert (response.status, response.read()) == (500, b"Internal Server Error\n")
    assert client.get("/metrics?x=y").read()


def test_other_methods_are_refused(client: UnixHttp) -> None:
    response = client.get("/metrics", method="POST", body=b"x")
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"x" * http.MAX_REQUEST * 2 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, b"413"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"GET http://[/metrics HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET //[x/metrics HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"405"),
    ],
)
def test_bad_requests_are_refused(address: Path, request_bytes: bytes, status: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(address))
        peer.sendall(request_bytes)
        assert peer.recv(4_096).split()[1] == status


def is_closed(peer: socket.socket) -> bool:
    try:
        return peer.recv(65_536) == b""
    except ConnectionResetError:
        return True


def test_slow_peers_do_not_keep_others_out(address: Path) -> None:
    peers = [socket.socket(socket.AF_UNIX) for _ in range(http.MAX_CONNECTIONS + 8)]
    try:
        for peer in peers:
            peer.settimeout(30)
            peer.connect(str(address))
            peer.sendall(b"GET /metrics HTTP/1.1\r\n")
        client = UnixHttp(address)
        assert client.get("/metrics").read()
        client.close()
        assert is_closed(peers[0]), "the first ones were closed"
    finally:
        for peer in peers:
            peer.close()


def test_a_peer_that_does_not_read_is_given_up(address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(address))
        peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 300)
        hang_up = select.poll()
        hang_up.register(peer, 0)
        assert hang_up.poll(30_000), "the listener closes although nothing was read"


def test_a_peer_that_says_nothing_is_given_up(address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(address))
        assert is_closed(peer)


def test_a_stuck_event_loop_fails_both_probes(client: UnixHttp) -> None:
    response = client.get("/livez")
    assert response.status == 503
    assert b"the event loop has not turned for 3600." in response.read()
    response = client.get("/readyz")
    assert response.status == 503
    assert [one["reason"] for one in json.loads(response.read())["reasons"]] == ["event_loop"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9464", 200),
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("evil.example:9464", 421),
        ("localhost.evil.example", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_websites_cannot_read_the_loopback_interface(host: str, status: int) -> None:
    listening = listen("tcp://127.0.0.1:0")
    thread = HttpListener(listening, {"/": ok}, None)
    thread.start()
    host_address, port = listening.socket.getsockname()
    connection = http_client.HTTPConnection(host_address, port, timeout=30)
    try:
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
    finally:
        connection.close()
        thread.close()
        listening.close()
