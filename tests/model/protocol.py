"""The model of ring, doorbells and crash rules: what broker and workers may do, and what must never result.

One step is what a process does without anybody noticing anything in between: a store into its own buffer, a read, a
system call. A worker can be killed between any two of its steps. Mirrors `ipc/channel/broker_end.py`,
`ipc/channel/worker_end.py`, `broker/router/deaths.py`, `broker/router/router.py` (`abandon`); see `state.py` for the
parts.
"""

from collections.abc import Callable, Iterator
from typing import Final

from tests.model.checker import Step, Violation
from tests.model.memory import Memory, Record
from tests.model.state import (
    BROKER,
    REFUSAL,
    Call,
    Layout,
    Left,
    Link,
    Move,
    Rules,
    Scope,
    State,
    Told,
    Worker,
)

States = Iterator[State]

NEVER_NOTICED: Final = frozenset({Move.ENTER, Move.LEAVE})
"""Nobody reads active_seq before the worker is dead."""
NOTICED_WHEN_RUNG: Final = frozenset({Move.WRITE, Move.PUBLISH})
"""The broker looks into ring B when it was rung for, or when the worker is dead."""


DEAD: Final = Worker(alive=False)
"""What a worker knew by itself is gone with it."""


class RingProtocol:
    """A model for `checker.check`."""

    def __init__(self, scope: Scope, rules: Rules, *, shortcuts: bool = True) -> None:
        """`shortcuts`: do not try unnoticed moves in every order; see `_goes_unnoticed`."""
        self._scope = scope
        self._shortcuts = shortcuts
        self._rules = rules
        self._layout = Layout(scope.capacity)
        self._refusal = rules.program[:2] + REFUSAL
        self._moves: dict[Move, Callable[[State, int], States]] = {
            Move.TAKE: self._take,
            Move.LOOK: self._look,
            Move.POP: self._pop,
            Move.ENTER: self._enter,
            Move.COMMIT: self._commit,
            Move.RUN: self._run,
            Move.WRITE: self._write,
            Move.PUBLISH: self._publish,
            Move.LEAVE: self._leave,
            Move.RING: self._ring_answer,
        }

    def start(self) -> State:
        """Return the first state: all messages wait in the broker's queue."""
        scope = self._scope
        nothing = (0,) * scope.messages
        return State(
            memory=Memory(self._layout.fresh * scope.workers, ((),) * (scope.workers + 1)),
            workers=(Worker(),) * scope.workers,
            links=(Link(),) * scope.workers,
            queue=tuple(range(scope.messages)),
            told=(Told.NOTHING,) * scope.messages,
            runs=nothing,
            sends=nothing,
            deaths=nothing,
            left=Left(scope.kills, scope.revokes, scope.cancels, scope.refusals),
        )

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield everything that can happen next."""
        for index, worker in enumerate(state.workers):
            if self._goes_unnoticed(worker, state.links[index]):
                yield from self._worker_steps(state, index, worker)
                return
        for index, worker in enumerate(state.workers):
            if worker.alive:
                yield from self._worker_steps(state, index, worker)
            else:
                yield from _steps(f"broker: hears of the end of worker {index}", state, self._reap(state, index))
        # Both workers are alike: that it is worker 0 which gets the first message halves the states.
        for index in range(len(state.links) if any(state.sends) else 1):
            yield from self._broker_steps(state, index)
        yield from self._cancel_steps(state)

    def check_end(self, state: State) -> None:
        """Raise Violation if a message is lost."""
        for body, told in enumerate(state.told):
            if told is Told.NOTHING:
                raise Violation(f"message {body} is lost: nothing more happens, and its caller has heard nothing")
        if state.queue or state.links != tuple(
            link._replace(published=(), unrung=0, tokens=0, rung=0) for link in state.links
        ):
            raise Violation("nothing more happens, and something is still under way")

    # -- a worker ---

    def _program(self, worker: Worker) -> tuple[Move, ...]:
        return self._refusal if worker.refuses else self._rules.program

    def _goes_unnoticed(self, worker: Worker, link: Link) -> bool:
        """Return whether the worker's next move changes nothing for anybody else, whatever they do until then.

        What others may do before such a move they may as well do after it, with the same result: then it is enough to
        look at the latter. The worker's own death is another step of it, and is looked at before and after. (A trace
        may then hold such a move although the violation would have come without it.)
        """
        if not (worker.alive and self._shortcuts):
            return False
        move = self._program(worker)[worker.at]
        return move in NEVER_NOTICED or (move in NOTICED_WHEN_RUNG and not link.rung)

    def _worker_steps(self, state: State, index: int, worker: Worker) -> Iterator[Step[State]]:
        move = self._program(worker)[worker.at]
        name = f"worker {index}"
        what = f"{name}: {move.value}" + (f" (message {worker.call.body})" if worker.at > 1 else "")
        yield from _steps(what, state, self._moves[move](state, index))
        if state.left.kills:
            killed = state.with_worker(index, DEAD)
            left = state.left._replace(kills=state.left.kills - 1)
            yield Step(f"{name}: is killed", killed._replace(left=left), optional=True)
        if state.left.refusals and worker.at == 2 and not worker.refuses:
            refusing = state.with_worker(index, worker._replace(refuses=True))
            left = state.left._replace(refusals=state.left.refusals - 1)
            yield Step(f"{name}: finds message {worker.call.body} expired", refusing._replace(left=left), optional=True)

    def _next(self, state: State, index: int, memory: Memory, worker: Worker | None = None) -> State:
        """Advance the worker's program, with what it knows now."""
        worker = worker or state.workers[index]
        if worker.at + 1 == len(self._program(worker)):
            after = worker._replace(at=0, refuses=False, call=Call(-1, -1))
        else:
            after = worker._replace(at=worker.at + 1)
        return state.with_worker(index, after)._replace(memory=memory)

    def _take(self, state: State, index: int) -> States:
        link = state.links[index]
        if link.tokens:
            taken = state.with_link(index, link._replace(tokens=link.tokens - 1))
            yield self._next(taken, index, state.memory.fence(index + 1))

    def _look(self, state: State, index: int) -> States:
        tail = self._layout.request_tail(index)
        for memory in state.memory.views(BROKER, (tail,), self._scope.ordering):
            if memory.number(tail) > state.workers[index].consumed:
                yield self._next(state, index, memory)

    def _pop(self, state: State, index: int) -> States:
        consumed = state.workers[index].consumed
        tail, halves = self._layout.request_tail(index), self._layout.request(index, consumed)
        for memory in state.memory.views(BROKER, (tail, *halves), self._scope.ordering):
            if self._rules.forgives_tokens and memory.number(tail) == consumed:
                yield state.with_worker(index, state.workers[index]._replace(at=0))._replace(memory=memory)
                continue
            record = _whole_record(memory, tail, halves, consumed)
            memory = memory.forget(BROKER, halves)
            worker = state.workers[index]._replace(consumed=consumed + 1, call=Call(record.seq, record.body))
            yield self._next(state, index, memory, worker)

    def _enter(self, state: State, index: int) -> States:
        yield self._store(state, index, self._layout.active(index), state.workers[index].call.seq)

    def _commit(self, state: State, index: int) -> States:
        yield self._store(state, index, self._layout.request_head(index), state.workers[index].consumed)

    def _leave(self, state: State, index: int) -> States:
        yield self._store(state, index, self._layout.active(index), 0)

    def _publish(self, state: State, index: int) -> States:
        worker = state.workers[index]._replace(produced=state.workers[index].produced + 1)
        memory = state.memory.store(index + 1, (self._layout.answer_tail(index), worker.produced))
        yield self._next(state, index, memory, worker)

    def _store(self, state: State, index: int, address: int, value: int) -> State:
        return self._next(state, index, state.memory.store(index + 1, (address, value)))

    def _run(self, state: State, index: int) -> States:
        call = state.workers[index].call
        if call not in state.links[index].published:
            raise Violation(f"message {call.body} is run by a worker from which it was taken back")
        if state.runs[call.body] > (call.body in self._scope.idempotent):
            raise Violation(f"message {call.body} is run once too often")
        runs = tuple(count + (body == call.body) for body, count in enumerate(state.runs))
        yield self._next(state._replace(runs=runs), index, state.memory)

    def _write(self, state: State, index: int) -> States:
        worker = state.workers[index]
        head = self._layout.answer_head(index)
        record = Record(worker.produced, worker.call.seq, ~worker.call.body if worker.refuses else worker.call.body)
        halves = self._layout.answer(index, worker.produced)
        for memory in self._with_room(state.memory, BROKER, head, worker.produced):
            yield self._next(state, index, memory.store(index + 1, *((half, record) for half in halves)))

    def _ring_answer(self, state: State, index: int) -> States:
        link = state.links[index]
        rung = state.with_link(index, link._replace(rung=link.rung + 1))
        yield self._next(rung, index, state.memory.fence(index + 1))

    # -- the broker ---

    def _broker_steps(self, state: State, index: int) -> Iterator[Step[State]]:
        link = state.links[index]
        if state.queue and len(link.published) < self._scope.credits:
            label = f"broker: publishes message {state.queue[0]} for worker {index}"
            yield from _steps(label, state, self._send(state, index))
        if link.unrung:
            label = f"broker: rings worker {index}, {link.unrung} token(s)"
            rung = link._replace(tokens=link.tokens + link.unrung, unrung=0)
            yield Step(label, state.with_link(index, rung)._replace(memory=state.memory.fence(BROKER)))
        if link.rung:
            label = f"broker: takes {link.rung} answer(s) of worker {index}"
            yield from _steps(label, state, self._receive(state, index))
        if state.left.revokes and link.published:
            label = f"broker: takes back what worker {index} has not claimed"
            left = state.left._replace(revokes=state.left.revokes - 1)
            for after in self._revoke(state, index):
                if after.queue != state.queue:
                    yield Step(label, after._replace(left=left), optional=True)

    def _send(self, state: State, index: int) -> States:
        link, layout = state.links[index], self._layout
        body = state.queue[0]
        sends = tuple(count + (one == body) for one, count in enumerate(state.sends))
        # Numbers are never used twice; made of message and attempt, they do not depend on what else was sent before.
        call = Call(1 + body + len(sends) * state.sends[body], body)
        record = Record(link.produced, *call)
        halves = layout.request(index, link.produced)
        tail = layout.request_tail(index)
        after = link._replace(published=(*link.published, call), unrung=link.unrung + 1, produced=link.produced + 1)
        for memory in self._with_room(state.memory, index + 1, layout.request_head(index), link.produced):
            stored = memory.store(BROKER, *((half, record) for half in halves), (tail, after.produced))
            yield state.with_link(index, after)._replace(memory=stored, queue=state.queue[1:], sends=sends)

    def _with_room(self, memory: Memory, reader: int, head: int, produced: int) -> Iterator[Memory]:
        """Raise Violation if the ring is full: credits should prevent that."""
        if produced < self._scope.capacity:
            yield memory
            return
        for view in memory.views(reader, (head,), self._scope.ordering):
            if produced - view.number(head) >= self._scope.capacity:
                raise Violation("the ring is full")
            yield view

    def _receive(self, state: State, index: int) -> States:
        link = state.links[index]
        fenced = state.with_link(index, link._replace(rung=0))._replace(memory=state.memory.fence(BROKER))
        yield from self._take_answers(fenced, index, link.rung)

    def _take_answers(self, state: State, index: int, count: int) -> States:
        if not count:
            head = self._layout.answer_head(index), state.links[index].consumed
            yield state._replace(memory=state.memory.store(BROKER, head))
            return
        link = state.links[index]
        tail, halves = self._layout.answer_tail(index), self._layout.answer(index, link.consumed)
        for memory in state.memory.views(index + 1, (tail, *halves), self._scope.ordering):
            record = _whole_record(memory, tail, halves, link.consumed)
            memory = memory.forget(index + 1, halves)
            taken = state.with_link(index, link._replace(consumed=link.consumed + 1))._replace(memory=memory)
            yield from self._take_answers(self._settle(taken, index, record), index, count - 1)

    def _settle(self, state: State, index: int, record: Record) -> State:
        link = state.links[index]
        call = next((call for call in link.published if call.seq == record.seq), None)
        if call is None:
            raise Violation("an answer to a call that this worker does not have")
        refused = record.body < 0
        if call.body != (~record.body if refused else record.body):
            raise Violation(f"the caller of message {call.body} gets the answer to another")
        if not refused and not state.runs[call.body]:
            raise Violation(f"message {call.body} is answered, and was not run")
        without = tuple(one for one in link.published if one is not call)
        answered = state.with_link(index, link._replace(published=without))
        return _tell(answered, call.body, Told.EXPIRED if refused else Told.ANSWER)

    def _revoke(self, state: State, index: int) -> States:
        link = state.links[index]
        if self._rules.revoke_takes_tokens:
            count = link.tokens + link.unrung
            untokened = state.with_link(index, link._replace(tokens=0))
            yield self._rewind(untokened._replace(memory=state.memory.fence(BROKER)), index, count)
            return
        head = self._layout.request_head(index)
        for memory in state.memory.views(index + 1, (head,), self._scope.ordering):
            count = min(link.produced - memory.number(head), len(link.published))
            yield self._rewind(state._replace(memory=memory), index, count)

    def _rewind(self, state: State, index: int, count: int) -> State:
        if not count:
            return state
        link = state.links[index]
        produced = link.produced - count
        kept, back = link.published[:-count], link.published[-count:]
        after = state.with_link(index, link._replace(published=kept, unrung=0, produced=produced))
        waiting = tuple(call.body for call in back if state.told[call.body] is Told.NOTHING)
        memory = state.memory.store(BROKER, (self._layout.request_tail(index), produced))
        return after._replace(memory=memory, queue=waiting + state.queue)

    def _cancel_steps(self, state: State) -> Iterator[Step[State]]:
        if not state.left.cancels:
            return
        left = state.left._replace(cancels=state.left.cancels - 1)
        for body, told in enumerate(state.told):
            if told is Told.NOTHING:
                label = f"broker: message {body} is cancelled"
                for after in self._cancel(state._replace(left=left), body):
                    yield Step(label, after, optional=True)

    def _cancel(self, state: State, body: int) -> States:
        told = _tell(state, body, Told.CANCELLED)
        if body in state.queue:
            yield told._replace(queue=tuple(other for other in state.queue if other != body))
            return
        for index, link in enumerate(state.links):
            if any(call.body == body for call in link.published):
                yield from self._revoke(told, index)

    def _reap(self, state: State, index: int) -> States:
        memory = state.memory.fence(index + 1)
        link = state.links[index]
        published = memory.number(self._layout.answer_tail(index))
        active = memory.number(self._layout.active(index))
        count = published - link.consumed if self._rules.drains_the_dead else 0
        for drained in self._take_answers(state._replace(memory=memory), index, count):
            rescued = drained
            for call in reversed(drained.links[index].published):
                rescued = self._rescue(rescued, call.body, started=call.seq == active)
            yield self._respawn(rescued, index)

    def _rescue(self, state: State, body: int, *, started: bool) -> State:
        if state.told[body] is not Told.NOTHING:
            return state
        idempotent = body in self._scope.idempotent
        if idempotent:
            state = state._replace(deaths=tuple(n + (one == body) for one, n in enumerate(state.deaths)))
        if started and (not idempotent or state.deaths[body] > 1):
            failed = _tell(state, body, Told.ERROR)
            if failed.told.count(Told.ERROR) > self._scope.kills - state.left.kills:
                raise Violation("more calls have failed than workers were killed")
            return failed
        return state._replace(queue=(body, *state.queue))

    def _respawn(self, state: State, index: int) -> State:
        memory = state.memory.reset(index * self._layout.size, self._layout.fresh)
        return state.with_worker(index, Worker()).with_link(index, Link())._replace(memory=memory)


def _steps(label: str, state: State, states: States) -> Iterator[Step[State]]:
    try:
        for after in states:
            yield Step(label, after)
    except Violation as violated:
        yield Step(label, state, violation=str(violated))


def _whole_record(memory: Memory, tail: int, halves: tuple[int, int], position: int) -> Record:
    first, second = (memory.cells[half] for half in halves)
    if memory.number(tail) <= position:
        raise Violation("a record is read where none is published")
    if first != second or not isinstance(first, Record) or first.position != position:
        raise Violation(f"a torn or stale record is read: {first}, {second} at position {position}")
    return first


def _tell(state: State, body: int, told: Told) -> State:
    before = state.told[body]
    if before is Told.CANCELLED:
        return state
    if before is not Told.NOTHING:
        raise Violation(f"the caller of message {body} is told a second thing: {before.name}, then {told.name}")
    sends = state.sends
    if told is not Told.CANCELLED:
        # It is not sent again: how often it was is history, which must not keep states apart.
        sends = sends[:body] + (1,) + sends[body + 1 :]
    return state._replace(told=state.told[:body] + (told,) + state.told[body + 1 :], sends=sends)
