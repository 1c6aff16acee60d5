"""The measured waiting share of calls whose waiting is known."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tykpy.ipc.ring.layout import MAX_HANDLER_NS, MAX_WAITING, WAITING_SHIFT
from tykpy.workers import metering
from tykpy.workers.metering import Meter, waiting_share

CPU_NS: Final = 60_000_000


def measured(run: Callable[[], object], busy: int = 1) -> tuple[int, float]:
    """Return a call's time in ns, and the part of it that was waiting.

    A call that waited for a CPU most of the time, as on a busy machine, has no known share: it is made again.
    """
    meter = Meter()
    waiting = 0
    while not waiting:
        started = time.monotonic_ns()
        meter.begin()
        run()
        aux = meter.end(time.monotonic_ns() - started, busy)
        waiting = aux >> WAITING_SHIFT
    meter.close()
    return aux & MAX_HANDLER_NS, (waiting - 1) / MAX_WAITING


def compute() -> None:
    """Use CPU in Python."""
    end = time.thread_time_ns() + CPU_NS
    while time.thread_time_ns() < end:
        pass


def digest() -> None:
    """Use CPU without the interpreter's lock."""
    end = time.thread_time_ns() + CPU_NS
    data = bytes(1_000_000)
    while time.thread_time_ns() < end:
        hashlib.sha256(data)


def test_sleeping_is_waiting() -> None:
    handler_ns, waiting = measured(lambda: time.sleep(0.02))
    assert handler_ns >= 20_000_000
    assert waiting > 0.9


@pytest.mark.parametrize("work", [compute, digest])
def test_computing_is_not_waiting(work: Callable[[], None]) -> None:
    assert measured(work)[1] < 0.3


MS: Final = 1_000_000


def share(handler_ns: int, own_ns: int, others_ns: int, delay_ns: int, busy: int, unclaimed_ns: int = 0) -> float:
    found = waiting_share(handler_ns, own_ns, others_ns, delay_ns, busy, unclaimed_ns)
    assert found is not None
    return found


@pytest.mark.parametrize("calls", [2, 3, 8])
@pytest.mark.parametrize("starvation", [1, 4])
def test_contending_for_the_interpreter_is_not_waiting(calls: int, starvation: int) -> None:
    """Calls that compute 2 ms each share one CPU."""
    handler_ns, delay_ns = calls * 2 * MS * starvation, 2 * MS * (starvation - 1)
    assert share(handler_ns, 2 * MS, (calls - 1) * 2 * MS, delay_ns, calls) == 0


def test_sleeping_while_others_compute_is_waiting() -> None:
    """A sleeping thread loses no time to computing ones."""
    assert share(30 * MS, MS // 20, 29 * MS, 0, busy=2) > 0.4
    assert share(30 * MS, MS // 20, 2 * MS, 4 * MS, busy=32) > 0.9


def test_nothing_is_known_if_others_took_most_of_the_time() -> None:
    assert waiting_share(700 * MS, 2 * MS, 20 * MS, 60 * MS, busy=10, unclaimed_ns=20 * MS) is None


def test_computing_of_other_hooks_is_not_charged_to_a_call() -> None:
    assert share(20 * MS, MS // 10, 12 * MS, 0, busy=6) > 0.99
    assert share(20 * MS, MS // 10, 12 * MS, 0, busy=6, unclaimed_ns=12 * MS) < 0.9

    def while_another_computes() -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(measured, compute, 2).result()

    assert measured(while_another_computes, busy=2)[1] > 0.9


def test_half_computing_and_half_waiting_is_one_half() -> None:
    assert share(4 * MS, 2 * MS, 0, 0, 1) == 0.5


def test_computing_in_a_helper_thread_is_not_waiting() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        handler_ns, waiting = measured(lambda: pool.submit(digest).result())
    assert waiting < 1.01 - CPU_NS / handler_ns


def test_measuring_works_without_schedstat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "_SCHEDSTAT", "/nowhere")
    assert measured(lambda: time.sleep(0.02))[1] > 0.9


def test_times_too_long_for_a_record_are_cut() -> None:
    meter = Meter()
    meter.begin()
    aux = meter.end(1 << 60, 1)
    meter.close()
    assert (aux & MAX_HANDLER_NS, aux >> WAITING_SHIFT <= MAX_WAITING + 1, aux < 1 << 64) == (
        MAX_HANDLER_NS,
        True,
        True,
    )
