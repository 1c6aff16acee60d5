"""What is learned about a hook's times, and how many calls run at once for it."""

from hypothesis import given
from hypothesis import strategies as st

from tykpy.broker.router.hook_info import FEW, OUTLIER_MEMORY, SELDOM_LONG_NS, SHORT_NS, WHOLE, HookTimes
from tykpy.ipc.ring.layout import FLAG_MEASURE, FLAG_SHARES, MAX_HANDLER_NS

US = 1_000


def learned(*handler_ns: int) -> HookTimes:
    hook = HookTimes()
    for ns in handler_ns:
        hook.learn(ns)
    return hook


def test_a_hook_is_not_short_before_it_has_run() -> None:
    assert not HookTimes().is_short


def test_a_hook_that_returns_at_once_is_short() -> None:
    assert learned(15 * US).is_short


def test_a_hook_that_waits_for_a_service_is_not_short() -> None:
    assert not learned(*[SHORT_NS + 1] * 100).is_short


def test_interrupted_runs_do_not_hide_that_a_hook_is_short() -> None:
    # With more workers than CPUs, only now and then a call runs without interruption.
    assert learned(*([400 * US] * 9 + [15 * US]) * 20).is_short


def test_a_hook_that_is_often_long_is_not_short() -> None:
    assert not learned(*[15 * US, 10 * SELDOM_LONG_NS] * 20).is_short


def test_a_hook_that_has_become_longer_is_not_short_any_more() -> None:
    assert not learned(*[15 * US] * 20, *[200 * US] * 200).is_short


def at_once(times: HookTimes) -> int:
    return round(WHOLE / times.share)


def measured(*calls: tuple[int, int | None]) -> HookTimes:
    times = HookTimes()
    for handler_us, waited_us in calls:
        times.learn(handler_us * US, None if waited_us is None else waited_us * US)
    return times


def test_a_hook_is_measured_before_it_is_known() -> None:
    assert HookTimes().flags == FLAG_MEASURE


def test_a_hook_that_computes_has_its_worker_to_itself() -> None:
    times = measured(*[(2_000, 300)] * 50)
    assert (times.share, times.flags) == (WHOLE, FLAG_MEASURE)


def test_a_hook_that_waits_leaves_its_worker_to_others() -> None:
    times = measured(*[(3_000, 2_000)] * 50)
    assert (at_once(times), times.flags) == (3, FLAG_MEASURE | FLAG_SHARES)
    assert at_once(measured(*[(20_000, 19_950)] * 50)) > 300


def test_a_short_hook_is_not_measured() -> None:
    times = measured(*[(20, None)] * 50)
    assert (times.share, times.flags) == (WHOLE, 0)


def test_a_hook_that_waits_now_and_then_is_still_measured() -> None:
    times = measured(*[(20, None)] * 50, *[(20_000, 19_950), *[(20, 0)] * 9] * 5)
    assert times.flags == FLAG_MEASURE | FLAG_SHARES


def test_unmeasured_calls_change_nothing() -> None:
    """Neither for a hook that waits, nor for one that computes."""
    assert at_once(measured(*[(3_000, 2_000)] * 50, *[(30_000, None)] * 50)) == 3
    assert at_once(measured(*[(3_000, 30)] * 50, *[(30_000, None)] * 50)) == 1


def test_a_short_hook_that_waits_is_seen_before_it_returns() -> None:
    times = measured(*[(20, None)] * 50)
    times.see_waiting(15_000 * US)
    assert at_once(times) > 50
    times.learn(1_500_000 * US, None)
    assert at_once(times) > 50


@given(st.lists(st.tuples(st.integers(0, MAX_HANDLER_NS), st.none() | st.floats(0, 1), st.booleans())))
def test_shares_stay_within_bounds_for_any_measurements(
    calls: list[tuple[int, float | None, bool]],
) -> None:
    times = HookTimes()
    for handler_ns, waiting, seen in calls:
        if seen:
            times.see_waiting(handler_ns)
        else:
            times.learn(handler_ns, None if waiting is None else int(handler_ns * waiting))
        assert 0 < times.share <= WHOLE
        assert 0 <= times.waiting_ns <= times.expected_ns
        assert (times.share < WHOLE) == bool(times.flags & FLAG_SHARES)


def test_one_long_delay_does_not_share_a_short_hooks_worker() -> None:
    times = measured(*[(14, 1)] * 50)
    times.learn(1_900 * US, 1_800 * US)
    assert at_once(times) == 1
    times.learn(1_900 * US, 1_800 * US)
    times.learn(1_900 * US, 1_800 * US)
    assert at_once(times) > 1


def test_the_first_calls_of_a_hook_do_not_share_its_worker() -> None:
    times = measured(*[(1_900, 1_800)] * FEW)
    assert at_once(times) == 1
    for _ in range(3):
        times.learn(1_900 * US, 1_800 * US)
    assert at_once(times) > 1


def test_one_delayed_call_does_not_share_a_worker() -> None:
    """As measured on a busy machine: the hook computes for 20 us, and one call of it was delayed."""
    calls: list[tuple[int, int | None]] = [(54, 4)] * 50
    times = measured(*calls, (722, 455), *[(54, 4)] * OUTLIER_MEMORY, (722, 455))
    assert at_once(times) == 1
    assert at_once(measured(*calls, (722, 455), *[(54, 4)] * 3, (722, 455))) > 1
    # Likewise for a hook that computes for long.
    assert at_once(measured(*[(6_000, 20)] * 50, (60_000, 50_000))) == 1
