"""Calls in threads of their own: results and errors come back, and nobody waits longer than it wants."""

import threading
from collections.abc import Iterator

import pytest

from tykpy.workers.storage import timelimit
from tykpy.workers.storage.timelimit import TimeLimitedCalls

AMPLE_S = 30.0
AT_ONCE_S = 0.001


@pytest.fixture
def calls() -> Iterator[TimeLimitedCalls]:
    calls = TimeLimitedCalls("limited")
    yield calls
    calls.close()


def test_the_result_comes_back(calls: TimeLimitedCalls) -> None:
    assert calls.call(lambda: 42, AMPLE_S) == 42


@pytest.mark.parametrize("error", [KeyError("k"), TimeoutError("its own"), SystemExit(3)])
def test_the_error_comes_back(calls: TimeLimitedCalls, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        calls.call(fail, AMPLE_S)
    assert caught.value is error


def test_one_caller_at_a_time_needs_one_thread(calls: TimeLimitedCalls) -> None:
    threads = {calls.call(threading.get_ident, AMPLE_S) for _ in range(100)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_a_call_that_takes_too_long_is_given_up(calls: TimeLimitedCalls) -> None:
    go_on = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.001 s"):
        calls.call(go_on.wait, AT_ONCE_S)
    assert calls.call(lambda: "another thread", AMPLE_S) == "another thread"
    go_on.set()


def test_threads_are_limited(monkeypatch: pytest.MonkeyPatch, calls: TimeLimitedCalls) -> None:
    monkeypatch.setattr(timelimit, "MAX_THREADS", 2)
    go_on = threading.Event()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            calls.call(go_on.wait, AT_ONCE_S)
    with pytest.raises(TimeoutError, match="2 calls are still without an answer"):
        calls.call(lambda: 1, AMPLE_S)
    go_on.set()


def test_calls_after_close_are_refused(calls: TimeLimitedCalls) -> None:
    calls.call(lambda: 1, AMPLE_S)
    calls.close()
    assert "limited" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionError):
        calls.call(lambda: 1, AMPLE_S)
