"""What a worker's death leaves behind: what it ran fails once, or runs again; what it had not started is another's."""

from functools import partial
from typing import Final

from tykpy.broker.errors import DispatchError
from tykpy.broker.faults import attempt, each
from tykpy.broker.router.blame import Cause, Poison
from tykpy.broker.router.contract import Death
from tykpy.broker.router.dispatch import Dispatch
from tykpy.broker.router.link import Link
from tykpy.broker.router.outcomes import Outcomes
from tykpy.broker.router.placing import Placing
from tykpy.broker.router.queue import PendingQueue
from tykpy.ipc.frame import Status

MAX_ATTEMPTS: Final = 3
"""Workers that may die by themselves with a dispatch still unstarted before its caller gets an error."""


class Deaths:
    """Settles what dead workers had in flight."""

    def __init__(self, pending: PendingQueue, outcomes: Outcomes, placing: Placing, poison: Poison) -> None:
        self._pending = pending
        self._outcomes = outcomes
        self._placing = placing
        self._poison = poison

    def settle(self, link: Link, death: Death) -> None:
        """Answer, fail or give to others all that the worker had; the oldest of it goes to the front of the queue."""
        self._placing.forget(link)
        each(partial(self._outcomes.answer, link), death.answers)
        attempt(self._blame, link, death)
        each(partial(self._settle_one, link, death), sorted(link.in_flight, reverse=True))
        self._placing.place_waiting()

    def _blame(self, link: Link, death: Death) -> None:
        """Blame what it ran; what waits and is not to run any more because of it is told so."""
        # What is overdue and was never started waited for a worker that takes nothing.
        guilty = death.executing & link.overdue if link.overdue else death.executing
        if self._poison.blame([link.in_flight[seq] for seq in guilty if seq in link.in_flight], death.cause):
            each(self._placing.may_run, self._pending)

    def _settle_one(self, link: Link, death: Death, seq: int) -> None:
        dispatch = link.finish(seq)
        assert dispatch is not None
        dispatch.seq = 0
        if dispatch.settled:
            self._outcomes.let_go(dispatch)
            return
        try:
            if seq in death.executing or not death.trusted:
                self._run_again(dispatch, death)
            else:
                self._start_again(dispatch, death)
        except Exception as fault:  # noqa: BLE001 (its caller is told, whatever it was)
            self._outcomes.broken(dispatch, fault)

    def _run_again(self, dispatch: Dispatch, death: Death) -> None:
        assert dispatch.hook is not None
        if dispatch.hook.idempotent and not dispatch.retried:
            dispatch.retried = True
            self._redispatch(dispatch)
        else:
            self._fail(dispatch, f"{death.why} while it ran this hook")

    def _start_again(self, dispatch: Dispatch, death: Death) -> None:
        # Nothing that had not started is to blame for a kill from outside. Where workers die by themselves it may be
        # its bytes that kill them before its hook is entered.
        if death.cause in (Cause.CRASH, Cause.HANG):
            dispatch.attempts += 1
        if dispatch.attempts < MAX_ATTEMPTS:
            self._redispatch(dispatch)
        else:
            self._fail(dispatch, f"{death.why} before it started this hook, {dispatch.attempts} times")

    def _redispatch(self, dispatch: Dispatch) -> None:
        self._outcomes.counters.redispatched += 1
        self._placing.put_back(dispatch)

    def _fail(self, dispatch: Dispatch, why: str) -> None:
        self._outcomes.fail(dispatch, DispatchError(Status.HOOK_FAILED, f"{why} ({dispatch.name})"))
