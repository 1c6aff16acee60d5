"""What a worker sends about plugins' metrics, and when."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.broker import wait_until
from tyk import metrics
from tykpy.bundles import forked
from tykpy.ipc.channel.control import ControlSocket
from tykpy.ipc.plugin_metrics import PIECE_SERIES
from tykpy.workers import plugin_metrics
from tykpy.workers.plugin_metrics import SentMetrics


class Ends:
    """A worker's end of the control socket, and the broker's."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.control = ControlSocket(ours, blocking=True)
        self.broker = ControlSocket(theirs, blocking=False)
        self.sent = SentMetrics(self.control, metrics.registry)
        self.heard: list[tuple[str, Any]] = []

    def read(self) -> list[tuple[str, Any]]:
        """Return what has arrived by now."""
        self.heard += [(message.name, message.body) for message in self.broker.receive()]
        return self.heard

    def close(self) -> None:
        """Close both, the broker's first."""
        self.broker.close()
        self.sent.finish()
        self.control.close()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    monkeypatch.setattr(metrics, "registry", metrics.Registry())
    made = Ends()
    yield made
    made.close()


def test_a_report_comes_by_itself(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_metrics, "PERIOD_S", 0.01)
    ends.sent.open(send=True)
    metrics.counter("logins", "Text.", ["result"]).labels("ok").inc(3)
    wait_until(lambda: bool(ends.read()), lambda: "a report")
    assert ends.heard[0] == (
        "metric",
        {
            "bundle": "",
            "help": "Text.",
            "series": [[["ok"], [3.0]]],
            "kind": "counter",
            "name": "logins",
            "labels": ["result"],
            "buckets": [],
            "aggregate": "",
        },
    )


def test_the_last_report_has_everything(ends: Ends) -> None:
    ends.sent.open(send=True)
    metrics.gauge("level", aggregate="max").set(2)
    ends.sent.finish()
    ((_, body),) = ends.read()
    assert (body["name"], body["aggregate"], body["series"]) == ("level", "max", [[[], [2.0]]])


def test_many_series_go_in_pieces(ends: Ends) -> None:
    ends.sent.open(send=True)
    many = metrics.counter("many", labels=["number"])
    for number in range(metrics.MAX_SERIES + 1):
        many.labels(number).inc()
    with ThreadPoolExecutor(1) as other:
        # More than the socket holds.
        finished = other.submit(ends.sent.finish)
        wait_until(lambda: bool(ends.read()) and finished.done(), lambda: str(len(ends.heard)))
    ends.read()
    sizes = [len(body["series"]) for name, body in ends.heard if name == "metric"]
    assert sum(sizes) == metrics.MAX_SERIES
    assert max(sizes) == PIECE_SERIES
    assert ends.heard[-1] == ("metrics_dropped", {"bundle": "", "reason": "series", "count": 1})


def test_nothing_is_sent_without_metrics(ends: Ends) -> None:
    ends.sent.open(send=False)
    metrics.counter("logins").inc()
    ends.sent.finish()
    assert ends.read() == []


def test_a_forked_child_sends_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.sent.open(send=True)
    monkeypatch.setattr(forked, "is_child", True)
    metrics.counter("logins").inc()
    ends.sent.finish()
    assert ends.read() == []


def test_a_broker_that_is_gone_is_no_fault(ends: Ends) -> None:
    ends.sent.open(send=True)
    metrics.counter("logins").inc()
    ends.broker.close()
    ends.sent.finish()


def test_a_bundle_that_damages_its_metrics_affects_no_other(ends: Ends) -> None:
    ends.sent.open(send=True)
    owner = metrics.registry.owner
    metrics.registry.owner = lambda: "bad"
    damaged: Any = metrics.counter("damaged")
    damaged._updates.append("text")
    metrics.registry.owner = owner
    metrics.counter("sound").inc()
    ends.sent.finish()
    assert [body["name"] for _, body in ends.read()] == ["sound"]
