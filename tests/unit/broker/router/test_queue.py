"""The queue: order, lanes, urgency, and dispatches that are completed while they wait."""

from tests.support.peers.dispatches import RecordedDispatch
from tykpy.broker.router.hook_info import ASYNC, BLOCKING, HookInfo
from tykpy.broker.router.hook_stats import EVENT, AllHookStats
from tykpy.broker.router.peek import CUSTOM_KEY_CHECK
from tykpy.broker.router.queue import COMPLETED_ALLOWANCE, PendingQueue


def waiter(*, urgent: bool = False, is_async: bool = False) -> RecordedDispatch:
    dispatch = RecordedDispatch()
    dispatch.hook = HookInfo(AllHookStats().unknown, is_async=is_async)
    dispatch.hook_type = CUSTOM_KEY_CHECK if urgent else EVENT
    return dispatch


def complete(queue: PendingQueue, dispatch: RecordedDispatch) -> None:
    dispatch.completed = True
    queue.forget(dispatch)


def test_a_lane_is_first_in_first_out() -> None:
    queue = PendingQueue()
    first, second, other = waiter(), waiter(), waiter(is_async=True)
    for dispatch in (first, other, second):
        queue.push(dispatch)
    assert [queue.pop(BLOCKING), queue.pop(BLOCKING), queue.pop(BLOCKING)] == [first, second, None]
    assert queue.pop(ASYNC) is other
    assert queue.waiting == 0


def test_auth_hooks_go_before_others() -> None:
    queue = PendingQueue()
    ordinary, auth = waiter(), waiter(urgent=True)
    queue.push(ordinary)
    queue.push(auth)
    assert [queue.pop(BLOCKING), queue.pop(BLOCKING)] == [auth, ordinary]


def test_a_dispatch_put_back_is_the_oldest_again() -> None:
    queue = PendingQueue()
    newer, older = waiter(), waiter()
    queue.push(newer)
    queue.push_front(older)
    assert queue.pop(BLOCKING) is older
    assert not older.waiting
    assert newer.waiting


def test_an_auth_hook_put_back_goes_before_others() -> None:
    queue = PendingQueue()
    ordinary, auth, auth_again = waiter(), waiter(urgent=True), waiter(urgent=True)
    queue.push(auth)
    queue.push_front(ordinary)
    queue.push_front(auth_again)
    assert [queue.pop(BLOCKING) for _ in range(3)] == [auth_again, auth, ordinary]


def test_a_completed_dispatch_is_skipped_and_not_counted() -> None:
    queue = PendingQueue()
    gone, other = waiter(), waiter()
    queue.push(gone)
    queue.push(other)
    complete(queue, gone)
    assert queue.waiting == 1
    assert queue.pop(BLOCKING) is other
    assert queue.pop(BLOCKING) is None
    assert queue.waiting == 0


def test_completed_dispatches_do_not_pile_up() -> None:
    """Callers that come and go while every worker is busy must not grow the queue without bound."""
    queue = PendingQueue()
    other = waiter()
    queue.push(other)
    for _ in range(3 * COMPLETED_ALLOWANCE):
        gone = waiter()
        queue.push(gone)
        complete(queue, gone)
        assert sum(len(one) for lane in queue._lanes for one in lane) <= COMPLETED_ALLOWANCE + 3
    assert queue.waiting == 1
    assert queue.pop(BLOCKING) is other
