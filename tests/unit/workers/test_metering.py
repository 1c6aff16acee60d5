"""How much of its time a call waits: what is told of calls whose waiting is known."""

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
    """Running time in ns, and which part of it was waiting."""
    meter = Meter()
    started = time.monotonic_ns()
    meter.begin()
    run()
    aux = meter.end(time.monotonic_ns() - started, busy)
    meter.close()
    return aux & MAX_HANDLER_NS, ((aux >> WAITING_SHIFT) - 1) / MAX_WAITING


def compute() -> None:
    """Use so much CPU, in Python."""
    end = time.thread_time_ns() + CPU_NS
    while time.thread_time_ns() < end:
        pass


def digest() -> None:
    """Use so much CPU without the interpreter's lock."""
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
    """So many calls compute 2 ms each, in turn, and get every so many'th part of a CPU."""
    handler_ns, delay_ns = calls * 2 * MS * starvation, 2 * MS * (starvation - 1)
    assert share(handler_ns, 2 * MS, (calls - 1) * 2 * MS, delay_ns, calls) == 0


def test_sleeping_while_others_compute_is_waiting() -> None:
    """Their time is not lost to a thread that wants nothing."""
    assert share(30 * MS, MS // 20, 29 * MS, 0, busy=2) > 0.4
    assert share(30 * MS, MS // 20, 2 * MS, 4 * MS, busy=32) > 0.9


def test_where_others_take_most_of_the_time_nothing_is_known_of_the_rest() -> None:
    assert waiting_share(700 * MS, 2 * MS, 20 * MS, 60 * MS, busy=10, unclaimed_ns=20 * MS) is None


def test_what_other_hooks_compute_is_not_computed_for_a_call_that_waits() -> None:
    assert share(20 * MS, MS // 10, 12 * MS, 0, busy=6) > 0.99
    assert share(20 * MS, MS // 10, 12 * MS, 0, busy=6, unclaimed_ns=12 * MS) < 0.9

    def while_another_computes() -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(measured, compute, 2).result()

    assert measured(while_another_computes, busy=2)[1] > 0.9


def test_half_computing_and_half_waiting_is_what_it_is() -> None:
    assert share(4 * MS, 2 * MS, 0, 0, 1) == 0.5


def test_what_another_thread_computes_for_a_call_is_not_waiting() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        handler_ns, waiting = measured(lambda: pool.submit(digest).result())
    assert waiting < 1.01 - CPU_NS / handler_ns


def test_without_the_kernels_account_of_run_queues_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "_SCHEDSTAT", "/nowhere")
    assert measured(lambda: time.sleep(0.02))[1] > 0.9


def test_times_that_no_record_can_hold_are_the_longest_that_one_can() -> None:
    meter = Meter()
    meter.begin()
    aux = meter.end(1 << 60, 1)
    meter.close()
    assert (aux & MAX_HANDLER_NS, aux >> WAITING_SHIFT <= MAX_WAITING + 1, aux < 1 << 64) == (
        MAX_HANDLER_NS,
        True,
        True,
    )
