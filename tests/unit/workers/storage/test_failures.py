"""When a failing store is asked again, and how often the log says that it fails."""

import logging

import pytest

from tyk.gateway.testing import ManualClock
from tykpy.workers.storage.failures import LOG_EVERY_S, Breaker, FailureLog


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(1.0, 4.0, clock)


def test_a_closed_breaker_lets_everybody_through(breaker: Breaker) -> None:
    assert all(breaker.allows() for _ in range(3))


def test_an_open_breaker_lets_one_through_after_its_back_off(breaker: Breaker, clock: ManualClock) -> None:
    assert breaker.failed() == 1.0
    assert not breaker.allows()
    clock.advance(0.99)
    assert not breaker.allows()
    clock.advance(0.01)
    assert breaker.allows()
    assert not breaker.allows()


def test_the_back_off_doubles_up_to_its_limit(breaker: Breaker, clock: ManualClock) -> None:
    backoffs = []
    for _ in range(4):
        assert breaker.allows()
        backoffs.append(breaker.failed())
        clock.advance(backoffs[-1])
    assert backoffs == [1.0, 2.0, 4.0, 4.0]


def test_a_success_closes_it_and_the_back_off_starts_anew(breaker: Breaker, clock: ManualClock) -> None:
    breaker.failed()
    clock.advance(1.0)
    assert breaker.allows()
    breaker.succeeded()
    assert all(breaker.allows() for _ in range(3))
    assert breaker.failed() == 1.0


def test_calls_that_began_before_it_opened_do_not_prolong_it(breaker: Breaker, clock: ManualClock) -> None:
    breaker.failed()
    clock.advance(0.5)
    assert breaker.failed() == 0.5
    clock.advance(0.5)
    assert breaker.allows()


def test_failures_after_the_first_are_counted(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog(clock)
    for _ in range(3):
        log.failed("broken")
    assert caplog.messages == ["broken"]
    clock.advance(LOG_EVERY_S)
    log.failed("broken")
    assert caplog.messages == ["broken", "broken (2 failures since the last report)"]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_recovery_is_logged_once(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog(clock)
    log.recovered("well")
    log.failed("broken")
    log.failed("broken")
    log.recovered("well")
    log.recovered("well")
    assert caplog.messages == ["broken", "well (after 2 failed tries)"]


def test_a_flapping_peer_does_not_fill_the_log(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog(clock)
    for _ in range(100):
        log.failed("broken")
        log.recovered("well")
    assert caplog.messages == ["broken", "well (after 1 failed tries)"]
