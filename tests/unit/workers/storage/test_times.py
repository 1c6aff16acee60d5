"""Times of storage operations, from a worker to its broker's report."""

from pathlib import Path

from tests.support.channels import local_worker
from tykpy.broker.pool.storage_report import MOST, StorageReport
from tykpy.ipc.ring import layout
from tykpy.telemetry.buckets import BUCKETS
from tykpy.workers.storage import open_storage


def test_a_workers_times_have_the_buckets_of_all_histograms() -> None:
    assert layout.STORAGE_TIMES_EACH == 1 + BUCKETS


def test_times_are_added_up_over_workers_also_those_that_ended(tmp_path: Path) -> None:
    report = StorageReport(None, tmp_path)
    for _ in range(2):
        with local_worker() as worker:
            storage = open_storage(None, tmp_path, count=worker.channel.count_storage)
            storage.store("key", b"value", 10)
            assert storage.fetch("key") == b"value"
            assert storage.fetch("other") == b""
            storage.close()
            report.note_end(worker.link.channel)
    with local_worker() as living:
        living.channel.count_storage(layout.StorageOperation.STORE, BUCKETS - 1, 40 * 10**9)
        times = report.times([living.link.channel])
    assert sum(times["store"][1:]) == 3
    assert (times["store"][-1], sum(times["fetch"][1:])) == (1, 4)
    assert times["store"][0] > 40 * 10**9
    assert times["fetch"][0] > 0


def test_what_a_worker_claims_is_limited(tmp_path: Path) -> None:
    report = StorageReport(None, tmp_path)
    with local_worker() as worker:
        worker.channel._words[layout.STORAGE_TIMES] = 2**64 - 1
        assert report.times([worker.link.channel, worker.link.channel])["store"][0] == MOST
