"""Run hooks on one object or event and make the answer frame: the end of a worker's part in a dispatch."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from tyk.call import NO_ORIGIN, RUNNING, Origin
from tyk.event import TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest
from tykpy.bundles import forked
from tykpy.bundles.async_call import ASYNC_CALL
from tykpy.bundles.bundle import Chain
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.hook import Hook
from tykpy.bundles.shapes import IgnoredReturnError, complete_reply
from tykpy.ipc.clock import monotonic_ns
from tykpy.ipc.frame import Kind, Packed, pack_frame
from tykpy.workers.dispatch import sampled_checks
from tykpy.workers.dispatch.failure import hook_expired, hook_failed, hook_passed_over, return_ignored
from tykpy.workers.dispatch.trace import HOOK_SPANS
from tykpy.workers.objects.chain import ChainEffects, RequestEffects, ResponseEffects
from tykpy.workers.objects.subject import Subject

_AUTH: Final = int(HookType.CustomKeyCheck)
_RESPONSE: Final = int(HookType.Response)


class Invocation:
    """A decoded dispatch and the hooks found for it. Run it once: with `run`, or with `run_async` if it is async."""

    __slots__ = ("_answer", "_work", "is_async")

    def __init__(self, is_async: bool, work: Coroutine[Any, Any, Any], answer: Callable[[Any], Packed]) -> None:
        """`work` runs the hooks, and awaits only if `is_async`; `answer` makes the answer frame of its result."""
        self.is_async = is_async
        self._work = work
        self._answer = answer

    def run(self) -> Packed:
        """Run the hooks in this thread and return the answer frame. Raises WorkerError."""
        try:
            self._work.send(None)
        except StopIteration as end:
            return self._answer(end.value)
        self._work.close()
        raise RuntimeError("an invocation that is not async has awaited something")

    async def run_async(self) -> Packed:
        """Run the hooks on an event loop and return the answer frame. Raises WorkerError."""
        return self._answer(await self._work)


def hook_invocation(hook: Hook, subject: Subject, origin: Origin) -> Invocation:
    """Run one hook on one object."""
    return Invocation(hook.is_async, run_hook(hook, subject.message, subject.request(), origin), subject.answer)


def chain_invocation(chain: Chain, subject: Subject, origin: Origin) -> Invocation:
    """Run all hooks of one type on one object, with what the gateway does between two of them."""
    return Invocation(chain.is_async, _run_chain(chain, subject, origin), subject.answer)


def event_invocation(hooks: Sequence[Hook], event: TykEvent, payload: str, kind: Kind, origin: Origin) -> Invocation:
    """Run event handlers: the first on `event`, the others on copies. One that fails does not stop the others."""
    is_async = any(hook.is_async for hook in hooks)
    return Invocation(is_async, _run_handlers(hooks, event, payload, origin), lambda _: pack_frame(kind, None, b""))


async def _run_chain(chain: Chain, subject: Subject, origin: Origin) -> Object:
    """Run the hooks until one answers the request, or all ran."""
    first = subject.message
    _ = subject.request().object
    is_response = first.hook_type == _RESPONSE
    effects: ChainEffects = ResponseEffects(first) if is_response else RequestEffects(first, len(chain.links))
    for hook, raw_body_only in chain.links:
        view, request = effects.next_call(raw_body_only)
        answer: Object = await run_hook(hook, view, request, origin)
        del request  # the effects check whether the plugin has kept it
        if not effects.apply(answer):
            break
    effects.finish(answer)
    return answer


async def _run_handlers(hooks: Sequence[Hook], event: TykEvent, payload: str, origin: Origin) -> None:
    errors: list[WorkerError] = []
    for index, hook in enumerate(hooks):
        try:
            await run_hook(hook, TykEvent.from_json(payload) if index else event, None, origin)
        except WorkerError as error:
            errors.append(error)
    if errors:
        raise errors[0]


async def run_hook(
    hook: Hook, subject: Any, request: TykCoProcessRequest | None = None, origin: Origin = NO_ORIGIN
) -> Any:
    """Call a hook and return its object or event, changed by it.

    A hook with `on_error="continue"` that fails gets the object as it was returned. Raises WorkerError whatever a hook
    raises, KeyboardInterrupt included; and CancelledError where an async call's deadline passed. Any other cancellation
    is the hook's failure.
    """
    untouched = None
    if hook.continues and subject.hook_type != _AUTH:  # a failed authentication never lets a request through
        untouched = _untouched(subject, request)
    shape, is_async = hook.shape, hook.is_async
    arguments = shape.arguments(subject, request)
    hook.unwatched_calls = unwatched_calls = hook.unwatched_calls - 1
    before = None
    if unwatched_calls <= 0 and request is not None:
        _ = request.object
        before = sampled_checks.begin(hook, subject)
    running = hook, subject, monotonic_ns(), origin  # slow_hooks.py finds it here
    RUNNING.set(running)
    spans = HOOK_SPANS.get()
    span = None if spans is None else spans.begin(hook)
    try:
        result = hook.function(*arguments)
        if is_async:
            result = await result
        if forked.is_child:
            forked.end()
        if is_async and ASYNC_CALL.get().is_cancelled:
            await asyncio.sleep(0)  # deliver a cancellation that the hook requested without waiting for it
        shape.apply_result(subject, arguments, result)
    except IgnoredReturnError as ignored:
        return_ignored(hook, str(ignored))
    except BaseException as error:
        if span is not None:
            span.fail((ASYNC_CALL.get().ended_by if is_async else None) or error)
        failure = hook_failed(hook, _cause_of(error, hook) if is_async else error)
        if untouched is None:
            raise failure from error
        hook_passed_over(hook, failure)
        return untouched
    finally:
        RUNNING.set(None)
        if span is not None:
            span.end()
    if before is not None:
        sampled_checks.end(hook, before, subject)
    return subject


def _cause_of(error: BaseException, hook: Hook) -> BaseException:
    """Return why an async hook that raised `error` failed. Raises `error` again if its deadline passed."""
    call = ASYNC_CALL.get()
    if call.is_expired:
        hook_expired(hook)
    return call.cause_of(error)


def _untouched(subject: Object, request: TykCoProcessRequest | None) -> Object:
    """Return a copy that is a valid answer."""
    if request is not None:
        _ = request.object
    untouched = Object()
    untouched.CopyFrom(subject)
    complete_reply(untouched)
    return untouched
