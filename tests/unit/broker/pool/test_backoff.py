"""The delay before the next worker of a slot."""

from tykpy.broker.pool.backoff import FIRST_DELAY, HOPELESS_FAILURES, LONGEST_DELAY, PROVEN_SECONDS, BackOff


def test_failed_starts_are_retried_more_and_more_slowly() -> None:
    back_off = BackOff()
    delays = [back_off.failed(0) for _ in range(20)]
    assert delays[:4] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    assert back_off.failed(1) == FIRST_DELAY


def test_a_worker_that_proved_itself_is_replaced_at_once() -> None:
    back_off = BackOff()
    for _ in range(5):
        assert back_off.died(0, worked=True, served=0.0) == 0
        assert back_off.died(0, worked=False, served=PROVEN_SECONDS) == 0


def test_repeated_early_deaths_delay_the_next_start() -> None:
    back_off = BackOff()
    delays = [back_off.died(0, worked=False, served=0.1) for _ in range(4)]
    assert delays == [0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert back_off.died(0, worked=True, served=0.1) == 0
    assert back_off.died(0, worked=False, served=0.1) == 0


def test_a_pool_is_hopeless_once_every_slot_has_failed() -> None:
    back_off = BackOff()
    for _ in range(HOPELESS_FAILURES):
        assert not back_off.hopeless(2)
        back_off.failed(0)
    assert back_off.hopeless(1)
    assert not back_off.hopeless(2)
    back_off.forget(0)
    assert not back_off.hopeless(1)
