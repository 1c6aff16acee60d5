"""The ring protocol keeps its promises in every order of events, and each of its rules is needed for that.

A violation is shown with the shortest way to it; for those that are expected: `pytest -s tests/model`.
"""

import pytest

from tests.model.checker import Found, check
from tests.model.memory import Ordering
from tests.model.protocol import RingProtocol
from tests.model.state import PROGRAM, Move, Rules, Scope

MOST_STATES = 3_000_000
EVERY_ORDERING = pytest.mark.parametrize("ordering", list(Ordering), ids=lambda ordering: ordering.value)


def violation(scope: Scope, rules: Rules | None = None) -> Found | None:
    outcome = check(RingProtocol(scope, rules or Rules()), MOST_STATES)
    print(f"{scope}: {outcome.states} states, {outcome.ends} ends")
    print(outcome.found or "no violation")
    assert outcome.found or outcome.ends
    return outcome.found


def sure_violation(scope: Scope, rules: Rules) -> str:
    found = violation(scope, rules)
    assert found is not None, f"nothing is wrong without this rule: {rules}"
    return found.what


def before(first: Move, second: Move) -> tuple[Move, ...]:
    """Return the worker's program with one move done too early."""
    rest = [move for move in PROGRAM if move is not first]
    at = rest.index(second)
    return (*rest[:at], first, *rest[at:])


# -- the protocol as it is ---


@EVERY_ORDERING
def test_three_messages_and_a_kill_at_every_step(ordering: Ordering) -> None:
    assert violation(Scope(ordering, kills=1, revokes=0)) is None


@EVERY_ORDERING
def test_three_messages_taken_back_at_every_step(ordering: Ordering) -> None:
    assert violation(Scope(ordering, kills=0, revokes=1)) is None


@EVERY_ORDERING
def test_three_messages_that_are_cancelled_at_every_step(ordering: Ordering) -> None:
    assert violation(Scope(ordering, kills=0, revokes=0, cancels=1)) is None


@EVERY_ORDERING
def test_kill_and_revoke_in_any_order_at_every_step(ordering: Ordering) -> None:
    assert violation(Scope(ordering, messages=2)) is None


@EVERY_ORDERING
def test_a_refused_message_does_not_run_whoever_is_killed(ordering: Ordering) -> None:
    assert violation(Scope(ordering, messages=2, revokes=0, refusals=1, capacity=3)) is None


@EVERY_ORDERING
def test_an_idempotent_hook_runs_at_most_twice(ordering: Ordering) -> None:
    assert violation(Scope(ordering, messages=2, kills=2, revokes=0, idempotent=frozenset({0}))) is None


# -- and without one of its rules ---


@EVERY_ORDERING
def test_acting_on_tail_alone_runs_a_revoked_request(ordering: Ordering) -> None:
    rules = Rules(program=(Move.LOOK, *PROGRAM[1:]), forgives_tokens=True)
    what = sure_violation(Scope(ordering, kills=0), rules)
    assert "taken back" in what or "torn" in what


def test_acting_on_tail_alone_reads_a_torn_record_on_arm() -> None:
    rules = Rules(program=(Move.LOOK, *PROGRAM[1:]))
    assert "torn or stale" in sure_violation(Scope(Ordering.ANY, kills=0, revokes=0), rules)


@EVERY_ORDERING
def test_running_before_active_seq_runs_a_hook_twice(ordering: Ordering) -> None:
    rules = Rules(program=before(Move.RUN, Move.ENTER))
    assert "once too often" in sure_violation(Scope(ordering, messages=2), rules)


@EVERY_ORDERING
def test_clearing_active_seq_early_runs_a_hook_twice(ordering: Ordering) -> None:
    rules = Rules(program=before(Move.LEAVE, Move.PUBLISH))
    assert "once too often" in sure_violation(Scope(ordering, messages=2), rules)


@EVERY_ORDERING
def test_a_revoke_without_the_tokens_takes_back_what_runs(ordering: Ordering) -> None:
    rules = Rules(revoke_takes_tokens=False)
    assert "none is published" in sure_violation(Scope(ordering, kills=0), rules)
    forgiving = Rules(revoke_takes_tokens=False, forgives_tokens=True)
    what = sure_violation(Scope(ordering, kills=0), forgiving)
    assert "taken back" in what or "torn" in what


@EVERY_ORDERING
def test_ignoring_unannounced_answers_runs_a_hook_twice(ordering: Ordering) -> None:
    rules = Rules(drains_the_dead=False)
    assert "once too often" in sure_violation(Scope(ordering, messages=2), rules)


@EVERY_ORDERING
def test_announcing_before_publishing_finds_no_answer(ordering: Ordering) -> None:
    rules = Rules(program=before(Move.RING, Move.PUBLISH))
    assert "none is published" in sure_violation(Scope(ordering, messages=1, kills=0), rules)


def test_credits_for_the_whole_ring_are_one_too_many() -> None:
    scope = Scope(Ordering.TSO, kills=0, revokes=0, refusals=1, capacity=2)
    assert "the ring is full" in sure_violation(scope, Rules())


# -- more of everything ---


@pytest.mark.soak
@EVERY_ORDERING
def test_three_messages_with_kill_and_revoke_at_every_step(ordering: Ordering) -> None:
    assert violation(Scope(ordering)) is None


@pytest.mark.soak
@EVERY_ORDERING
def test_two_kills_and_a_revoke_with_an_idempotent_hook(ordering: Ordering) -> None:
    assert violation(Scope(ordering, messages=2, kills=2, idempotent=frozenset({0}))) is None


@pytest.mark.soak
@EVERY_ORDERING
def test_kill_revoke_cancellation_and_refusal_together(ordering: Ordering) -> None:
    assert violation(Scope(ordering, messages=2, cancels=1, refusals=1, capacity=3)) is None


@pytest.mark.soak
@EVERY_ORDERING
@pytest.mark.parametrize("first", PROGRAM[2:], ids=lambda move: move.name)
def test_the_shortcuts_of_the_model_hide_nothing(ordering: Ordering, first: Move) -> None:
    scope = Scope(ordering, messages=2)
    for second in PROGRAM[2:]:
        rules = Rules(program=before(first, second)) if second is not first else Rules()
        short, full = (
            check(RingProtocol(scope, rules, shortcuts=shortcuts), MOST_STATES) for shortcuts in (True, False)
        )
        assert (short.found and short.found.what) == (full.found and full.found.what), rules
