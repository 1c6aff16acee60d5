"""The timing wheel gives back what is late, and only that."""

from tests.support.peers.dispatches import RecordedDispatch
from tykpy.broker.router.deadlines import TICK_BITS, DeadlineWheel

TICK = 1 << TICK_BITS


def at(deadline_ns: int) -> RecordedDispatch:
    dispatch = RecordedDispatch()
    dispatch.deadline_ns = deadline_ns
    return dispatch


def test_nothing_expires_before_its_slot_has_passed() -> None:
    wheel = DeadlineWheel()
    wheel.add(at(5 * TICK))
    assert wheel.expired(5 * TICK) == []
    assert wheel.expired(6 * TICK - 1) == []
    assert wheel


def test_a_deadline_is_acted_on_at_most_one_slot_late() -> None:
    wheel = DeadlineWheel()
    late = at(5 * TICK + 7)
    wheel.add(late)
    assert wheel.expired(late.deadline_ns + TICK) == [late]
    assert not wheel


def test_expired_dispatches_come_earliest_first() -> None:
    wheel = DeadlineWheel()
    second, first = at(9 * TICK), at(2 * TICK)
    wheel.add(second)
    wheel.add(first)
    assert wheel.expired(100 * TICK) == [first, second]


def test_a_discarded_dispatch_never_expires() -> None:
    wheel = DeadlineWheel()
    gone, kept = at(3 * TICK), at(3 * TICK)
    wheel.add(gone)
    wheel.add(kept)
    wheel.discard(gone)
    wheel.discard(gone)
    assert wheel.expired(10 * TICK) == [kept]


def test_discarding_the_last_of_a_slot_leaves_nothing_to_look_at() -> None:
    wheel = DeadlineWheel()
    only = at(3 * TICK)
    wheel.add(only)
    wheel.discard(only)
    assert not wheel
