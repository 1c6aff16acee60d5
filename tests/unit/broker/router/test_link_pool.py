"""The choice of a worker: the least loaded, unless the hook is too short for another worker to be worth waking."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.channels import local_worker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tykpy.broker.router.hook_info import BLOCKING, HookInfo
from tykpy.broker.router.link import PREFETCH, Link
from tykpy.broker.router.link_pool import LinkPool

CPUS = 2
_seqs = itertools.count(1)


def short_hook() -> HookInfo:
    hook = HookInfo()
    for _ in range(100):
        hook.times.learn(1)
    return hook


@pytest.fixture
def links() -> Iterator[list[Link]]:
    with ExitStack() as stack:
        found = [stack.enter_context(local_worker(slot, slot + 1)).link for slot in range(4)]
        for link in found:
            link.open = True
        yield found


@pytest.fixture
def pool(links: list[Link]) -> LinkPool:
    pool = LinkPool(CPUS)
    for link in links:
        pool.add(link)
    return pool


def load(pool: LinkPool, *, is_short: bool) -> Link | None:
    """Give the next dispatch to the worker that the pool chooses."""
    link = pool.choose(BLOCKING, is_short=is_short)
    if link is not None:
        dispatch = RecordedDispatch(object_bytes("hook"))
        dispatch.hook = short_hook()
        link.send(dispatch, next(_seqs))
        pool.moved(link)
    return link


def test_hooks_that_may_wait_are_spread_over_all_workers(pool: LinkPool, links: list[Link]) -> None:
    for _ in range(8):
        load(pool, is_short=False)
    assert [len(link.in_flight) for link in links] == [2, 2, 2, 2]


def test_short_hooks_wake_as_many_workers_as_can_run_at_the_same_time(pool: LinkPool, links: list[Link]) -> None:
    for _ in range(8):
        load(pool, is_short=True)
    assert sorted(len(link.in_flight) for link in links) == [0, 0, 4, 4]


def test_short_hooks_go_to_idle_workers_when_the_others_take_no_more(pool: LinkPool, links: list[Link]) -> None:
    for _ in range(CPUS * (1 + PREFETCH)):
        load(pool, is_short=True)
    assert sorted(len(link.in_flight) for link in links) == [0, 0, 1 + PREFETCH, 1 + PREFETCH]
    load(pool, is_short=True)
    assert sorted(len(link.in_flight) for link in links) == [0, 1, 1 + PREFETCH, 1 + PREFETCH]


def test_workers_that_are_busy_with_something_long_do_not_keep_short_hooks_waiting(
    pool: LinkPool, links: list[Link]
) -> None:
    for link in links[:CPUS]:
        link.stalled = True
        link.loads[BLOCKING] = 1
        link.in_flight[next(_seqs)] = RecordedDispatch(object_bytes("hook"))
        pool.moved(link)
    assert load(pool, is_short=True) in links[CPUS:]


def test_a_single_short_hook_goes_to_an_idle_worker(pool: LinkPool, links: list[Link]) -> None:
    first = load(pool, is_short=True)
    second = load(pool, is_short=True)
    assert first is not second


def test_nobody_is_chosen_where_all_are_full(pool: LinkPool, links: list[Link]) -> None:
    while load(pool, is_short=False) is not None:
        pass
    assert [len(link.in_flight) for link in links] == [1 + PREFETCH] * 4
    assert pool.choose(BLOCKING, is_short=True) is None


def test_a_worker_that_left_is_not_chosen(pool: LinkPool, links: list[Link]) -> None:
    for link in links[1:]:
        pool.remove(link)
    assert pool.choose(BLOCKING) is links[0]
    assert (len(pool), list(pool), links[1] in pool) == (1, [links[0]], False)
    pool.moved(links[1])
    assert links[1] not in pool
