"""A thing that happens often is logged now and then, with how often it was left out."""

import logging

import pytest

from tykpy.telemetry.rate_limited_log import MAX_KEYS, REPEAT_SECONDS, QuietLog


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quiet(clock: Clock, caplog: pytest.LogCaptureFixture) -> QuietLog:
    caplog.set_level(logging.DEBUG)
    return QuietLog(logging.getLogger("quiet"), clock)


def test_repetitions_are_logged_once_a_minute_with_their_count(
    quiet: QuietLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        quiet.log(logging.WARNING, "a", "it happened")
    quiet.log(logging.ERROR, "b", "something else")
    clock.now += REPEAT_SECONDS
    quiet.log(logging.WARNING, "a", "it happened")
    assert caplog.messages == [
        "it happened",
        "something else",
        "it happened ... 2 more in 60 s",
        "it happened",
    ]
    assert [record.levelno for record in caplog.records] == [
        logging.WARNING,
        logging.ERROR,
        logging.WARNING,
        logging.WARNING,
    ]


def test_a_forgotten_record_is_logged_again(quiet: QuietLog, caplog: pytest.LogCaptureFixture) -> None:
    assert not quiet.forget("a")
    quiet.log(logging.INFO, "a", "it happened")
    assert quiet.forget("a")
    quiet.log(logging.INFO, "a", "it happened")
    assert len(caplog.messages) == 2


def test_endless_new_names_fill_neither_log_nor_memory(
    quiet: QuietLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2 * MAX_KEYS):
        quiet.log(logging.INFO, str(number), "a name")
    assert len(caplog.messages) == MAX_KEYS
    clock.now += REPEAT_SECONDS
    quiet.log(logging.INFO, "new", "a later name")
    assert caplog.messages[-1] == "a later name"
