"""Runs hooks on one object or event, and makes the answer frame: the end of a worker's part in a dispatch."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from tyk.event import TykEvent
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest
from tykpy.bundles import forked
from tykpy.bundles.bundle import Chain
from tykpy.bundles.current_hook import ASYNC_CALL, RUNNING
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.hook import Hook
from tykpy.bundles.shapes import IgnoredReturnError, complete
from tykpy.ipc.frame import Kind, Packed, pack_frame
from tykpy.workers.dispatch import sampled_checks
from tykpy.workers.dispatch.failure import hook_failed, hook_passed_over, return_ignored
from tykpy.workers.objects.borrowed import LentObject
from tykpy.workers.objects.chain import Fold, RequestFold, ResponseFold
from tykpy.workers.objects.lazy import UnreadRequest
from tykpy.workers.objects.msgpack_object import PackedObject

_AUTH: Final = int(HookType.CustomKeyCheck)
_RESPONSE: Final = int(HookType.Response)

Encode = Callable[[Object], Packed]
"""Makes the answer frame of an object."""


class Invocation(Protocol):
    """A dispatch that is decoded and found, and can be run once: `run` if it is not async, else `run_async`."""

    @property
    def is_async(self) -> bool:
        """It must be awaited on an event loop."""

    def run(self) -> Packed:
        """Run it and return the answer frame. Raises WorkerError."""

    async def run_async(self) -> Packed:
        """Run it and return the answer frame. Raises WorkerError."""


class HookInvocation:
    """One hook on one object."""

    __slots__ = ("_encode", "hook", "is_async", "subject")

    def __init__(self, hook: Hook, subject: Object, encode: Encode) -> None:
        self.hook = hook
        self.subject = subject
        self.is_async = hook.is_async
        self._encode = encode

    def run(self) -> Packed:
        """Run the hook and return the object it leaves."""
        if self.hook.continues and _may_continue(self.subject):
            return self._encode(run_or_pass(self.hook, self.subject))
        run_hook(self.hook, self.subject)
        return self._encode(self.subject)

    async def run_async(self) -> Packed:
        """Do the same for an `async def` hook."""
        if self.hook.continues and _may_continue(self.subject):
            return self._encode(await run_or_pass_async(self.hook, self.subject))
        await run_hook_async(self.hook, self.subject)
        return self._encode(self.subject)


class UnreadInvocation:
    """One hook on one object that is not all in its message yet: it came as a map, or its body was lent."""

    __slots__ = ("_unread", "hook", "is_async")

    def __init__(self, hook: Hook, unread: PackedObject | LentObject) -> None:
        self.hook = hook
        self.is_async = hook.is_async
        self._unread = unread

    def run(self) -> Packed:
        """Run the hook and return the object it leaves."""
        hook, unread = self.hook, self._unread
        if hook.continues and _may_continue(unread.subject):
            return unread.answer(run_or_pass(hook, unread.message))
        run_hook(hook, unread.subject, unread.request())
        return unread.answer(unread.subject)

    async def run_async(self) -> Packed:
        """Do the same for an `async def` hook."""
        hook, unread = self.hook, self._unread
        if hook.continues and _may_continue(unread.subject):
            return unread.answer(await run_or_pass_async(hook, unread.message))
        await run_hook_async(hook, unread.subject, unread.request())
        return unread.answer(unread.subject)


class ChainInvocation:
    """All hooks of one type on one object, with what the gateway does between two of them."""

    __slots__ = ("_encode", "_fold", "_links", "is_async")

    def __init__(self, chain: Chain, first: Object, encode: Encode) -> None:
        self._links = chain.links
        is_response = first.hook_type == _RESPONSE
        self._fold: Fold = ResponseFold(first) if is_response else RequestFold(first, len(chain.links))
        self.is_async = chain.is_async
        self._encode = encode

    def run(self) -> Packed:
        """Run the hooks until one answers the request, or all ran."""
        fold = self._fold
        for hook, raw_body_only in self._links:
            view, request = fold.view(raw_body_only)
            if hook.continues and _may_continue(view):
                answer = run_or_pass(hook, view, request)
            else:
                answer = run_hook(hook, view, request)
            del request
            if not fold.apply(answer):
                break
        return self._finish(answer)

    async def run_async(self) -> Packed:
        """Do the same where some hooks are `async def`."""
        fold = self._fold
        for hook, raw_body_only in self._links:
            view, request = fold.view(raw_body_only)
            if hook.continues and _may_continue(view):
                answer = await run_or_pass_async(hook, view, request)
            else:
                answer = await run_hook_async(hook, view, request)
            del request
            if not fold.apply(answer):
                break
        return self._finish(answer)

    def _finish(self, answer: Object) -> Packed:
        self._fold.finish(answer)
        return self._encode(answer)


class EventInvocation:
    """One event handler on one event."""

    __slots__ = ("_event", "_kind", "hook", "is_async")

    def __init__(self, hook: Hook, event: TykEvent, kind: Kind) -> None:
        self.hook = hook
        self.is_async = hook.is_async
        self._event = event
        self._kind = kind

    def run(self) -> Packed:
        """Run the handler and return the empty reply."""
        run_hook(self.hook, self._event)
        return self._reply()

    async def run_async(self) -> Packed:
        """Do the same for an `async def` handler."""
        await run_hook_async(self.hook, self._event)
        return self._reply()

    def _reply(self) -> Packed:
        return pack_frame(self._kind, None, b"")


class TriggeredInvocation:
    """All handlers of an event that a plugin triggered; one that fails keeps none of the others from running."""

    __slots__ = ("_hooks", "_kind", "_payload", "is_async")

    def __init__(self, hooks: Sequence[Hook], payload: str, kind: Kind) -> None:
        self.is_async = any(hook.is_async for hook in hooks)
        self._hooks = hooks
        self._payload = payload
        self._kind = kind

    def run(self) -> Packed:
        """Run the handlers, each with an event of its own, and return the empty reply or raise the first error."""
        errors: list[WorkerError] = []
        for hook in self._hooks:
            try:
                run_hook(hook, TykEvent.from_json(self._payload))
            except WorkerError as error:
                errors.append(error)
        return self._reply(errors)

    async def run_async(self) -> Packed:
        """Do the same where some handlers are `async def`."""
        errors: list[WorkerError] = []
        for hook in self._hooks:
            try:
                await run_hook_async(hook, TykEvent.from_json(self._payload))
            except WorkerError as error:
                errors.append(error)
        return self._reply(errors)

    def _reply(self, errors: list[WorkerError]) -> Packed:
        for error in errors:
            raise error
        return pack_frame(self._kind, None, b"")


def run_hook(hook: Hook, subject: Any, request: TykCoProcessRequest | None = None) -> Any:
    """Call a hook and return the subject with what came of it; `request` as for Shape.arguments.

    Raises WorkerError whatever the hook raises, KeyboardInterrupt included.
    """
    shape = hook.shape
    arguments = shape.arguments(subject, request)
    hook.unwatched_calls = unwatched_calls = hook.unwatched_calls - 1
    before = None if unwatched_calls > 0 else _begin_to_watch(hook, subject, request)
    RUNNING.set((hook, subject))
    try:
        result = hook.function(*arguments)
        if forked.is_child:
            forked.end()
        shape.settle(subject, arguments, result)
    except IgnoredReturnError as error:
        return_ignored(hook, str(error))
    except BaseException as error:
        raise hook_failed(hook, error) from error
    finally:
        RUNNING.set(None)
    if before is not None:
        sampled_checks.end(hook, before, subject)
    return subject


async def run_hook_async(hook: Hook, subject: Any, request: TykCoProcessRequest | None = None) -> Any:
    """Do what run_hook does, and await what an `async def` hook returns.

    Raises CancelledError where the call's deadline passed. Any other cancellation is the hook's failure.
    """
    if not hook.is_async:
        return run_hook(hook, subject, request)
    shape = hook.shape
    arguments = shape.arguments(subject, request)
    hook.unwatched_calls = unwatched_calls = hook.unwatched_calls - 1
    before = None if unwatched_calls > 0 else _begin_to_watch(hook, subject, request)
    RUNNING.set((hook, subject))
    call = ASYNC_CALL.get()
    try:
        result = await hook.function(*arguments)
        if forked.is_child:
            forked.end()
        if call.is_cancelled:
            await asyncio.sleep(0)  # a cancellation that the hook asked for, and did not wait for
        shape.settle(subject, arguments, result)
    except IgnoredReturnError as error:
        return_ignored(hook, str(error))
    except BaseException as error:
        raise hook_failed(hook, call.cause_of(error)) from error
    finally:
        RUNNING.set(None)
    if before is not None:
        sampled_checks.end(hook, before, subject)
    return subject


def run_or_pass(hook: Hook, subject: Object, request: TykCoProcessRequest | None = None) -> Object:
    """Run a hook with `on_error="continue"`: where it fails, the object as it came is the answer."""
    if isinstance(request, UnreadRequest):
        request.read()
    untouched = _copy(subject)
    try:
        run_hook(hook, subject, request)
    except WorkerError as error:
        hook_passed_over(hook, error)
        return untouched
    return subject


async def run_or_pass_async(hook: Hook, subject: Object, request: TykCoProcessRequest | None = None) -> Object:
    """Do what run_or_pass does for an `async def` hook."""
    if isinstance(request, UnreadRequest):
        request.read()
    untouched = _copy(subject)
    try:
        await run_hook_async(hook, subject, request)
    except WorkerError as error:
        hook_passed_over(hook, error)
        return untouched
    return subject


def _begin_to_watch(hook: Hook, subject: Object, request: TykCoProcessRequest | None) -> Object:
    if isinstance(request, UnreadRequest):
        request.read()
    return sampled_checks.begin(hook, subject)


def _may_continue(subject: Object) -> bool:
    """An authentication hook that fails never lets the request through, wherever it was declared."""
    return subject.hook_type != _AUTH


def _copy(subject: Object) -> Object:
    untouched = Object()
    untouched.CopyFrom(subject)
    complete(untouched)
    return untouched
