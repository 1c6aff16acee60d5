"""Lines for StatsD from snapshots."""

import contextlib
import logging
import socket

import pytest

from tests.support.snapshots import a_snapshot
from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ConfigError
from tykpy.broker.observe.statsd import MAX_DATAGRAM, StatsdReport, StatsdSender
from tykpy.telemetry.buckets import BUCKETS
from tykpy.telemetry.snapshot import HookSeries


def series(count: int, code: str = "OK", bucket: int = 9) -> HookSeries:
    """Return a hook's dispatches, all of one duration."""
    counts = [0] * BUCKETS
    counts[bucket] = count
    return HookSeries("a.zip", "hook", "Pre", code, dispatch_counts=counts)


def test_counters_are_sent_by_how_much_they_grew() -> None:
    report = StatsdReport("")
    first = list(report.lines(a_snapshot(series=[series(10), series(2, "INTERNAL")])))
    assert first[:3] == ["tykpy.requests:12|c", "tykpy.request.status.OK:10|c", "tykpy.request.status.INTERNAL:2|c"]
    # 5 to 10 ms; a rate of 1/12 stands for 12.
    assert first[3] == "tykpy.request.duration:7.5|ms|@0.083333333"
    assert "tykpy.worker.restarts.crash:3|c" in first
    second = list(report.lines(a_snapshot(series=[series(11), series(2, "INTERNAL")])))
    assert second[:3] == [
        "tykpy.requests:1|c",
        "tykpy.request.status.OK:1|c",
        "tykpy.request.duration:7.5|ms|@1.000000000",
    ]
    assert all(line.endswith("|g") for line in second[3:])


def test_a_hook_that_comes_back_counts_from_zero() -> None:
    report = StatsdReport("")
    list(report.lines(a_snapshot(series=[series(10)])))
    assert "tykpy.requests:3|c" in list(report.lines(a_snapshot(series=[series(3)])))


@pytest.mark.parametrize("prefix", ["web1", "web1."])
def test_a_prefix_gets_one_dot(prefix: str) -> None:
    assert "web1.tykpy.workers:4|g" in list(StatsdReport(prefix).lines(a_snapshot()))


def test_datagrams_are_bounded() -> None:
    lines = [f"tykpy.line.{number}:1|c" for number in range(500)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        with contextlib.closing(StatsdSender(f"127.0.0.1:{server.getsockname()[1]}")) as sender:
            sender.send(iter(lines))
        received: list[str] = []
        while len(received) < len(lines):
            datagram = server.recv(65_535)
            assert len(datagram) <= MAX_DATAGRAM
            received += datagram.decode().split("\n")
    assert received == lines


def test_a_server_that_fails_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(StatsdSender("nowhere.invalid:8125")) as sender, caplog.at_level(logging.WARNING):
        for _ in range(3):
            sender.send(iter(["tykpy.requests:1|c"]))
    (record,) = caplog.records
    assert record.getMessage().startswith("cannot send metrics to StatsD at nowhere.invalid:8125: ")


@pytest.mark.parametrize("host", ["8125", "localhost", ":8125", "localhost:99999", "http://localhost:8125"])
def test_a_host_without_a_port_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="write host:port"):
        BrokerConfig(statsd_host=host)


@pytest.mark.parametrize("prefix", ["a b", "a:1|c\n", "x" * 101])
def test_a_prefix_that_forges_lines_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--statsd-prefix"):
        BrokerConfig(statsd_prefix=prefix)
