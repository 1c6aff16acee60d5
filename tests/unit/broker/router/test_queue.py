"""The queue: order, lanes, urgency, and what happens to dispatches that are settled while they wait."""

from tests.support.peers.dispatches import RecordedDispatch
from tykpy.broker.router.queue import ASYNC, BLOCKING, SETTLED_ALLOWANCE, PendingQueue


def test_first_in_first_out_within_a_lane() -> None:
    queue = PendingQueue()
    first, second, other = RecordedDispatch(), RecordedDispatch(), RecordedDispatch()
    queue.push(first, BLOCKING, urgent=False)
    queue.push(other, ASYNC, urgent=False)
    queue.push(second, BLOCKING, urgent=False)
    assert [queue.pop(BLOCKING), queue.pop(BLOCKING), queue.pop(BLOCKING)] == [first, second, None]
    assert queue.pop(ASYNC) is other
    assert queue.waiting == 0


def test_auth_hooks_go_before_others_that_wait() -> None:
    queue = PendingQueue()
    ordinary, auth = RecordedDispatch(), RecordedDispatch()
    queue.push(ordinary, BLOCKING, urgent=False)
    queue.push(auth, BLOCKING, urgent=True)
    assert [queue.pop(BLOCKING), queue.pop(BLOCKING)] == [auth, ordinary]


def test_a_dispatch_put_back_is_the_oldest_again() -> None:
    queue = PendingQueue()
    newer, older = RecordedDispatch(), RecordedDispatch()
    queue.push(newer, BLOCKING, urgent=False)
    queue.push_front(older, BLOCKING, urgent=False)
    assert queue.pop(BLOCKING) is older
    assert not older.waiting
    assert newer.waiting


def test_an_auth_hook_put_back_goes_before_others_that_wait() -> None:
    queue = PendingQueue()
    ordinary, auth, auth_again = RecordedDispatch(), RecordedDispatch(), RecordedDispatch()
    queue.push(auth, BLOCKING, urgent=True)
    queue.push_front(ordinary, BLOCKING, urgent=False)
    queue.push_front(auth_again, BLOCKING, urgent=True)
    assert [queue.pop(BLOCKING) for _ in range(3)] == [auth_again, auth, ordinary]


def test_a_settled_dispatch_is_skipped_and_not_counted() -> None:
    queue = PendingQueue()
    gone, kept = RecordedDispatch(), RecordedDispatch()
    queue.push(gone, BLOCKING, urgent=False)
    queue.push(kept, BLOCKING, urgent=False)
    gone.settled = True
    queue.forget(gone, BLOCKING)
    assert queue.waiting == 1
    assert queue.pop(BLOCKING) is kept
    assert queue.pop(BLOCKING) is None
    assert queue.waiting == 0


def test_settled_dispatches_do_not_pile_up() -> None:
    """Callers that come and go while every worker is busy must not grow the queue without bound."""
    queue = PendingQueue()
    kept = RecordedDispatch()
    queue.push(kept, BLOCKING, urgent=False)
    for _ in range(3 * SETTLED_ALLOWANCE):
        gone = RecordedDispatch()
        queue.push(gone, BLOCKING, urgent=False)
        gone.settled = True
        queue.forget(gone, BLOCKING)
        assert sum(len(one) for lane in queue._lanes for one in lane) <= SETTLED_ALLOWANCE + 3
    assert queue.waiting == 1
    assert queue.pop(BLOCKING) is kept
