"""`from tyk import metrics`: what several workers count is added up, and no bundle harms another's metrics."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.broker import wait_until
from tests.support.hooks import Gate
from tests.support.metrics import MeteredBroker, Metrics, UnixHttp
from tykpy.client.rpc import RpcClient
from tykpy.ipc.plugin_metrics import MAX_METRICS, MAX_SERIES

COUNTS: Final = """
import asyncio, os, time
from tyk import metrics
from tyk.decorators import Pre

LOGINS = metrics.counter("logins_total", "Logins by result.", ["result"])
WORKERS = metrics.gauge("my_workers", "Workers with this bundle.")
NEWEST = metrics.gauge("newest_process", aggregate="max")
SIZES = metrics.histogram("sizes", "Sizes of requests.", buckets=[1, 10])
TIMES = metrics.histogram("waits_seconds", labels=["hook"])
WORKERS.set(1)
NEWEST.set(os.getpid())

@Pre
def counts(request, session, spec):
    LOGINS.labels(request.get_header("Result")).inc()
    SIZES.observe(5)
    gate = request.get_header("Gate")
    if gate:
        with open(request.get_header("Entered"), "a") as entered:
            print(os.getpid(), 0, "-", file=entered)
        while not os.path.exists(gate):
            time.sleep(0.005)
    request.add_header("X-Worker", str(os.getpid()))
    return request, session

@Pre
@TIMES.labels("waits").time()
async def waits(request, session, spec):
    await asyncio.sleep(0.001)
    return request, session

@Pre
def makes_one(request, session, spec):
    metrics.counter("made_in_a_hook").inc()
    return request, session
"""
OTHER: Final = """
from tyk import metrics
from tyk.decorators import Pre

# The counter of another bundle has this name.
metrics.gauge("logins_total", "How many are logged in.").set(7)
metrics.counter("made_in_a_hook", "The same as in the other bundle.").inc(100)
metrics.counter("a_hostile_label", labels=["text"]).labels('"} 1\\n# EOF\\nx{y="' + "\\0\\\\" + chr(0xd800)).inc()

@Pre
def floods(request, session, spec):
    for number in range(2000):
        metrics.counter("floods", labels=["number"]).labels(number).inc()
        metrics.counter(f"flood_{number}").inc()
    return request, session
"""
COUNTING: Final = "counting.py"
OTHERS: Final = "others.py"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeteredBroker]:
    one = MeteredBroker(tmp_path_factory.mktemp("plugin-metrics"), "--threads", "1", workers=2)
    one.add_file(COUNTING, COUNTS)
    one.add_file(OTHERS, OTHER)
    with one:
        yield one


def count(broker: MeteredBroker, result: str) -> int:
    """Run the counting hook; return the process that ran it."""
    answer = broker.call("counts", bundle=COUNTING, headers=[("Result", result)])
    return int(answer.request.set_headers["X-Worker"])


def wait_for_value(broker: MeteredBroker, value: float, name: str, **labels: str) -> None:
    """Wait until what workers report once a second has arrived."""
    wait_until(
        lambda: broker.scrape()(name, **labels) == value,
        lambda: f"{name}{labels} is {broker.scrape()(name, **labels)}, not {value}; log:\n{broker.log}",
    )


def reload(broker: MeteredBroker) -> None:
    with RpcClient(str(broker.runtime / "admin.sock")) as admin:
        admin.call("reload")


def count_in_two_workers(broker: MeteredBroker, folder: Path, result: str) -> None:
    """Run the counting hook in both workers at the same time."""
    gate = Gate(folder)
    with ThreadPoolExecutor(2) as callers:
        headers = [("Result", result), *gate.headers()]
        calls = [callers.submit(broker.call, "counts", bundle=COUNTING, headers=headers) for _ in range(2)]
        workers = {pid for pid, *_ in gate.wait_entered(2)}
        gate.open()
        for call in calls:
            call.result()
    assert len(workers) == 2


def test_workers_are_added_up(broker: MeteredBroker, tmp_path: Path) -> None:
    count_in_two_workers(broker, tmp_path, "ok")
    wait_for_value(broker, 2, "logins_total", bundle=COUNTING, result="ok")
    wait_for_value(broker, 2, "sizes_count", bundle=COUNTING)
    after = broker.scrape()
    assert after("sizes_sum", bundle=COUNTING) == 5 * 2
    assert after("sizes_bucket", bundle=COUNTING, le="1.0") == 0
    assert after("sizes_bucket", bundle=COUNTING, le="10.0") == 2
    assert after("my_workers", bundle=COUNTING) == 2
    pids = [worker["pid"] for worker in broker.status()["workers"]]
    assert after("newest_process", bundle=COUNTING) == max(pids)
    assert after.families["sizes"].type == "histogram"
    assert after.families["sizes"].documentation == "Sizes of requests."


def test_async_hooks_are_timed(broker: MeteredBroker) -> None:
    broker.call("waits", bundle=COUNTING)
    wait_for_value(broker, 1, "waits_seconds_count", bundle=COUNTING, hook="waits")
    assert broker.scrape()("waits_seconds_sum", bundle=COUNTING) >= 0.001


def test_metrics_can_be_made_in_hooks(broker: MeteredBroker) -> None:
    for _ in range(3):
        broker.call("makes_one", bundle=COUNTING)
    wait_for_value(broker, 3, "made_in_a_hook_total", bundle=COUNTING)


def test_nothing_is_lost_in_a_reload(broker: MeteredBroker) -> None:
    before = broker.scrape()("logins_total", bundle=COUNTING, result="reload")
    for _ in range(20):
        count(broker, "reload")
    # At once: the workers have not reported yet.
    reload(broker)
    count(broker, "reload")
    wait_for_value(broker, before + 21, "logins_total", bundle=COUNTING, result="reload")
    wait_for_value(broker, 2, "my_workers", bundle=COUNTING)


def test_what_a_killed_worker_had_sent_stays(broker: MeteredBroker) -> None:
    killed = count(broker, "killed")
    wait_for_value(broker, 1, "logins_total", bundle=COUNTING, result="killed")
    wait_for_value(broker, 2, "my_workers", bundle=COUNTING)
    os.kill(killed, signal.SIGKILL)
    wait_until(
        lambda: (
            killed not in (pids := [one["pid"] for one in broker.status()["workers"] if one["state"] == "ready"])
            and len(pids) == 2
        ),
        lambda: str(broker.status()),
    )
    wait_for_value(broker, 2, "my_workers", bundle=COUNTING)
    assert broker.scrape()("logins_total", bundle=COUNTING, result="killed") == 1


def test_bundles_may_have_metrics_of_one_name(broker: MeteredBroker, tmp_path: Path) -> None:
    broker.wait_for("made_in_a_hook_total", 100, bundle=OTHERS)
    count_in_two_workers(broker, tmp_path, "same name")
    wait_for_value(broker, 2, "logins_total", bundle=COUNTING, result="same name")
    after = broker.scrape()
    assert after("logins_total", bundle=OTHERS) == 7 * 2
    # Of two types, so it has none; names of one type in all bundles keep theirs.
    assert after.families["logins_total"].type == "unknown"
    assert after.families["made_in_a_hook"].type == "counter"


def test_labels_cannot_break_the_page(broker: MeteredBroker) -> None:
    broker.wait_for("a_hostile_label_total", 0, bundle=OTHERS)
    (labels,) = broker.scrape().labels_of("a_hostile_label_total")
    assert labels["text"] == '"} 1\\n# EOF\\nx{y="\\x00\\\\ud800'


def test_openmetrics_has_them_too(broker: MeteredBroker) -> None:
    wait_for_value(broker, 2, "my_workers", bundle=COUNTING)
    connection = UnixHttp(broker.http_socket)
    page = connection.get("/metrics", headers={"Accept": "application/openmetrics-text"}).read().decode()
    connection.close()
    families = {one.name: one for one in text_string_to_metric_families(page)}  # type: ignore[no-untyped-call]
    assert families["sizes"].type == "histogram"
    assert families["logins_total"].type == "unknown"


def test_a_flood_of_series_is_bounded(broker: MeteredBroker, tmp_path: Path) -> None:
    broker.call("floods", bundle=OTHERS)

    def dropped(now: Metrics, reason: str) -> float:
        return now("tykpy_plugin_metrics_dropped_total", bundle=OTHERS, reason=reason)

    wait_until(
        lambda: all(dropped(broker.scrape(), reason) for reason in ("series", "metrics")),
        lambda: f"{broker.scrape().samples}; log:\n{broker.log}",
    )
    now = broker.scrape()
    flood = {name for name, _ in now.samples if name.startswith("flood_") and name != "floods_total"}
    assert 0 < len(flood) <= MAX_METRICS
    assert 0 < len(list(now.labels_of("floods_total"))) <= MAX_SERIES
    broker.wait_for_log(f"metrics of bundle {OTHERS} are dropped: it has more than")
    # The other bundle's metrics count on.
    count_in_two_workers(broker, tmp_path, "after the flood")
    wait_for_value(broker, 2, "logins_total", bundle=COUNTING, result="after the flood")


def test_a_removed_bundle_takes_its_metrics_along(broker: MeteredBroker) -> None:
    (broker.bundles / OTHERS).unlink()
    reload(broker)
    wait_until(
        lambda: not broker.scrape()("a_hostile_label_total") + broker.scrape()("tykpy_plugin_metrics_dropped_total"),
        lambda: broker.log,
    )
