"""Five times more calls than the workers can run: calls that are too late or too many fail without being run."""

import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.overload import SOURCE, OpenLoopCallers, codes, runs_in

WORKERS: Final = 2
HOOK_SECONDS: Final = 0.01
CAPACITY: Final = WORKERS / HOOK_SECONDS
"""Most calls per second that the workers can run."""
OVERLOAD: Final = 5
MIB: Final = 1024 * 1024
MOST_GROWTH: Final = 64 * MIB
LOOK_INTERVAL: Final = 0.2
"""Seconds between two looks at the broker's memory."""


class Watch:
    """Sample the broker's memory until the end of the block; yield its maximum."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.before = self.most = self._process.memory_info().rss

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_INTERVAL):
            self.most = max(self.most, self._process.memory_info().rss)


def overload(folder: Path, seconds: float, *flags: str) -> tuple[dict[str, int], Counter[str]]:
    """Overload a broker for this long; return its counters, and the errors of the calls that failed."""
    journal = folder / "journal"
    broker = RunningBroker(folder, "--threads", "1", *flags, workers=WORKERS, env={"OVERLOAD_JOURNAL": str(journal)})
    broker.add_file("overload.py", SOURCE)
    with broker:
        with OpenLoopCallers(broker.address, OVERLOAD * CAPACITY, HOOK_SECONDS) as callers:
            first_answer(callers, "before")
            with Watch(broker.pid) as watch:
                callers.press(seconds)
                recovery = first_answer(callers, "after")
        broker.check_accounts()
        status = broker.status()
        check_account(callers, journal)
        growth = watch.most - watch.before
        print(f"{callers.calls} calls, {len(callers.answers)} answers, {codes(callers.failures)}")
        print(f"{status['dispatches']}, memory {growth / MIB:+.1f} MiB")
        print(f"an answer {recovery * 1e3:.0f} ms after the end of the load")
        assert status["restarts"] == 0, "a worker that is busy does not hang"
        assert status["dispatches"]["taken"] == callers.calls
        assert growth <= MOST_GROWTH
    return status["dispatches"], codes(callers.failures)


def first_answer(callers: OpenLoopCallers, nonce: str) -> float:
    """Call repeatedly until the first answer; return the seconds until then."""
    start = time.monotonic()
    number = 0
    while callers.call(f"{nonce}{number}").exception() is not None:
        number += 1
    return time.monotonic() - start


def check_account(callers: OpenLoopCallers, journal: Path) -> None:
    """Check that every call ended once, and none ran twice, after its deadline, or after it had failed."""
    runs = runs_in(journal)
    times = Counter(run.nonce for run in runs)
    assert callers.ended == callers.calls
    assert {nonce: times[nonce] for nonce in callers.answers if times[nonce] != 1} == {}
    unstarted = [nonce for nonce, text in callers.failures.items() if "in worker" not in text]
    assert {nonce: times[nonce] for nonce in unstarted if times[nonce]} == {}
    assert max(times.values()) == 1
    late = [run for run in runs if run.left_ns <= 0]
    assert not late, f"{len(late)} of {len(runs)} were claimed after their deadline"
    left = statistics.median(run.left_ns for run in runs) / 1e6
    print(f"{len(runs)} runs, claimed {left:.0f} ms (median) before their deadline; {len(late)} after it")


def test_an_overload_fails_by_age_and_nothing_runs_late(tmp_path: Path) -> None:
    counters, failures = overload(tmp_path, 3, "--queue-wait", "0.5")
    assert failures.keys() == {"RESOURCE_EXHAUSTED"}
    assert counters["shed"] == failures["RESOURCE_EXHAUSTED"]


def test_an_overload_fails_by_number_and_nothing_runs_late(tmp_path: Path) -> None:
    counters, failures = overload(tmp_path, 2, "--queue-size", "50")
    assert failures.keys() == {"RESOURCE_EXHAUSTED"}
    assert counters["refused"] == failures["RESOURCE_EXHAUSTED"]


def test_an_overload_fails_by_deadline_and_nothing_runs_late(tmp_path: Path) -> None:
    counters, failures = overload(tmp_path, 3, "--timeout", "0.5", "--queue-wait", "0")
    assert failures.keys() == {"DEADLINE_EXCEEDED"}
    # From the broker, or from the worker that claimed it a moment too late.
    assert counters["expired"] + counters["failed"] == failures["DEADLINE_EXCEEDED"]


def test_a_worker_that_is_busy_does_not_hang(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    # Long times, so that even on a busy machine the second call starts before its deadline.
    flags = ("--threads", "1", "--timeout", "4", "--hang-grace", "0")
    broker = RunningBroker(tmp_path, *flags, env={"OVERLOAD_JOURNAL": str(journal)})
    broker.add_file("overload.py", SOURCE)
    with broker:
        (before,) = broker.status()["workers"]
        with OpenLoopCallers(broker.address, 1, hook_seconds=2.4) as callers:
            for number in range(6):
                callers.call(f"n{number}")
        # The second of them was started before its deadline, and ran beyond it.
        wait_until(lambda: broker.status()["workers"][0]["in_flight"] == 0, lambda: str(broker.status()))
        check_account(callers, journal)
        assert len(callers.answers) == 1
        assert len(runs_in(journal)) == 2
        assert [row["pid"] for row in broker.status()["workers"]] == [before["pid"]]
        assert "hang" not in broker.log


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flags", [(), ("--queue-wait", "0", "--timeout", "1"), ("--queue-size", "100")], ids=" ".join)
def test_an_overload_of_30_s(tmp_path: Path, flags: tuple[str, ...]) -> None:
    wait = () if "--queue-wait" in flags else ("--queue-wait", "0.5")
    overload(tmp_path, 30, *wait, *flags)
