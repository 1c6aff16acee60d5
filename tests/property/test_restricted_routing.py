"""The router under any sequence of dispatches, deaths and reloads, with hooks that only some workers loaded."""

from contextlib import ExitStack
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.channels import LocalWorker
from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tests.unit.broker.router.bench import Bench
from tykpy.broker.router.deaths import Death
from tykpy.broker.router.hook_table import HookKey, Restrictions
from tykpy.broker.router.link import Link
from tykpy.ipc.channel.messages import Request

HOOKS = ("anywhere", "one", "two", "slow")
SLOTS = 3
DESCRIPTION: list[dict[str, Any]] = [
    {"name": "b", "hashes": ["h"], "hooks": [{"name": name, "is_async": name == "slow"} for name in HOOKS]}
]


class RoutingMachine(RuleBasedStateMachine):
    """Three workers, each with some of the hooks; a replacement has a different selection."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.bench = Bench(queue_size=1000)
        # No timer is ever due: what the machine may do next must not depend on how fast it is.
        self.bench.stop_time()
        self.stack.callback(self.bench.loop.close)
        self.router = self.bench.router
        self.generations = count(1)
        self.workers: dict[int, LocalWorker] = {}
        self.able: dict[Link, frozenset[str]] = {}
        self.claimed: dict[Link, dict[int, Request]] = {}
        self.dispatches: list[RecordedDispatch] = []
        self.cancelled: set[RecordedDispatch] = set()
        self.given: set[tuple[Link, int]] = set()

    @rule(hook=st.sampled_from(HOOKS), hook_type=st.sampled_from([1, 4]), bundle=st.sampled_from(["h", ""]))
    def dispatch(self, hook: str, hook_type: int, bundle: str) -> None:
        dispatch = RecordedDispatch(object_bytes(hook, hook_type, bundle))
        self.dispatches.append(dispatch)
        self.router.dispatch(dispatch)
        self.bench.turn()

    @precondition(lambda self: self.dispatches)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        dispatch = data.draw(st.sampled_from(self.dispatches))
        if not dispatch.completed:
            self.cancelled.add(dispatch)
        self.router.cancel(dispatch)
        self.bench.turn()

    @rule(slot=st.integers(0, SLOTS - 1), able=st.sets(st.sampled_from(HOOKS[1:])))
    def replace(self, slot: int, able: set[str]) -> None:
        """Replace a worker like the supervisor: the old one leaves, the router learns, the new one joins."""
        worker = LocalWorker(slot, next(self.generations))
        self.stack.callback(worker.close)
        old = self.workers.get(slot)
        if old is not None:
            self.router.leave(old.link)
            self.finish_all(old)
            del self.able[old.link]
        self.workers[slot] = worker
        self.able[worker.link] = frozenset({HOOKS[0], *able})
        self.learn()
        self.router.join(worker.link)
        self.bench.turn()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.workers)))
        worker = self.workers.pop(slot)
        del self.able[worker.link]
        executing = frozenset(self.claimed.pop(worker.link, {}))
        self.router.lost(worker.link, Death("it died", executing=executing))
        self.bench.turn()

    @rule()
    def learn(self) -> None:
        links = frozenset(self.able)
        hooks: dict[HookKey, frozenset[Link]] = {}
        for name in HOOKS:
            having = frozenset(link for link in links if name in self.able[link])
            if having != links:
                hooks |= {("h", name): having, ("", name): having}
        self.router.learn(DESCRIPTION, Restrictions(hooks, {}))
        self.bench.turn()

    @precondition(lambda self: any(self.unclaimed(worker) for worker in self.workers.values()))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        able = [slot for slot, worker in self.workers.items() if self.unclaimed(worker)]
        worker = self.workers[data.draw(st.sampled_from(sorted(able)))]
        if not self.claimed.get(worker.link):
            request = worker.claim()
            self.claimed.setdefault(worker.link, {})[request.seq] = request

    @precondition(lambda self: any(self.claimed.values()))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        slots = [slot for slot, worker in self.workers.items() if self.claimed.get(worker.link)]
        if slots:
            worker = self.workers[data.draw(st.sampled_from(sorted(slots)))]
            _, request = self.claimed[worker.link].popitem()
            worker.finish(request)
            self.router.receive(worker.link)
            self.bench.turn()

    def unclaimed(self, worker: LocalWorker) -> set[int]:
        return set(worker.link.in_flight) - self.claimed.get(worker.link, {}).keys()

    def finish_all(self, worker: LocalWorker) -> None:
        """Answer all dispatches of a worker."""
        for request in self.claimed.pop(worker.link, {}).values():
            worker.finish(request)
        self.router.receive(worker.link)
        self.bench.turn()
        while worker.link.in_flight:
            worker.finish(worker.claim())
            self.router.receive(worker.link)
            self.bench.turn()

    @invariant()
    def nobody_is_given_what_it_has_not_loaded(self) -> None:
        now = {(worker.link, seq) for worker in self.workers.values() for seq in worker.link.in_flight}
        for link, seq in now - self.given:
            assert link.in_flight[seq].name in self.able[link]
        self.given = now

    @invariant()
    def nothing_waits_that_a_worker_would_take(self) -> None:
        waiting = [one for one in self.dispatches if one.waiting]
        assert self.router.waiting == len(waiting)
        for dispatch in waiting:
            assert dispatch.hook is not None
            for worker in self.workers.values():
                takes = worker.link.accepts(dispatch.hook.lane)
                assert not takes or dispatch.name not in self.able[worker.link]

    @invariant()
    def every_dispatch_has_one_outcome(self) -> None:
        for dispatch in self.dispatches:
            assert len(dispatch.outcomes) == (dispatch.completed and dispatch not in self.cancelled)
        assert self.router.under_way == sum(not one.completed for one in self.dispatches)

    def teardown(self) -> None:
        """Check that a worker with all hooks empties the queue."""
        with self.stack:
            self.replace(0, set(HOOKS))
            while any(worker.link.in_flight for worker in self.workers.values()):
                for worker in self.workers.values():
                    self.finish_all(worker)
            assert (self.router.under_way, self.router.waiting, self.router.held) == (0, 0, 0)
            self.every_dispatch_has_one_outcome()


TestRouting = RoutingMachine.TestCase
TestRouting.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
