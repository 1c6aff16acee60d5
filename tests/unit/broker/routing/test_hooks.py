"""What is learned of a hook's running times."""

from broker.routing.hooks import SELDOM_LONG_NS, SHORT_NS, HookInfo

US = 1_000


def learned(*handler_ns: int) -> HookInfo:
    hook = HookInfo("hook")
    for ns in handler_ns:
        hook.learn(ns)
    return hook


def test_a_hook_is_not_short_before_it_has_run() -> None:
    assert not HookInfo("hook").is_short


def test_a_hook_that_returns_at_once_is_short() -> None:
    assert learned(15 * US).is_short


def test_a_hook_that_waits_for_its_neighbour_is_not() -> None:
    assert not learned(*[SHORT_NS + 1] * 100).is_short


def test_times_with_somebody_else_in_them_do_not_hide_that_a_hook_is_short() -> None:
    # More workers than CPUs: now and then one runs without being interrupted.
    assert learned(*([400 * US] * 9 + [15 * US]) * 20).is_short


def test_a_hook_that_is_sometimes_quick_and_often_long_is_not_short() -> None:
    assert not learned(*[15 * US, 10 * SELDOM_LONG_NS] * 20).is_short


def test_a_hook_that_has_become_longer_is_not_short_any_more() -> None:
    assert not learned(*[15 * US] * 20, *[200 * US] * 200).is_short
