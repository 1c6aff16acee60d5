"""Call one hook in the process of a test, with the worker's own code around it."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from inspect import getfile
from json import dumps
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from google.protobuf import json_format

from tyk.call import Origin
from tyk.event import TRIGGERED_KEY, TykEvent
from tyk.gateway.backend import READS
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest
from tyk.session import TykSession
from tykpy.bundles.errors import WorkerError, WrongReturnError
from tykpy.bundles.hook import Hook, definition_of, make_hook
from tykpy.bundles.plugin_errors import from_plugin
from tykpy.bundles.shapes import ResponseShape
from tykpy.commands.objects import CallDescription, build_object
from tykpy.ipc.reads import CallReads
from tykpy.testing.result import HookResult
from tykpy.workers.dispatch.invocation import Invocation, run_hook
from tykpy.workers.dispatch.reads import ReplayedReads

_BUNDLE = "test"


class HookCaller:
    """Calls hooks, and remembers the results."""

    def __init__(self) -> None:
        self.results: list[HookResult] = []

    def __call__(
        self,
        hook: Callable[..., Any],
        *,
        method: str = "GET",
        url: str = "/",
        headers: Mapping[str, str] | None = None,
        body: str | bytes = b"",
        json: object = None,
        session: TykSession | Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        spec: Mapping[str, str] | None = None,
        config_data: Mapping[str, Any] | None = None,
        response_status: int = 200,
        response_headers: Mapping[str, str] | None = None,
        response_body: str | bytes = b"",
        grpc_metadata: Mapping[str, str | bytes] | None = None,
        hook_type: str | None = None,
    ) -> HookResult:
        """Call a decorated function as the gateway would, and return what came of it.

        `json` is a body to be encoded. `config_data` is the API's own, which a hook finds as JSON in
        `spec["config_data"]`. `hook_type` says where a function with `@Hook` runs (default: "Pre", or "Response" for
        a function with five arguments). `async` functions are run to their end.

        Raises what the hook raises, TypeError for a function without a decorator or for an event handler (call those
        with `event`), and BundleError or WorkerError where a worker would refuse the function or what it returned.
        """
        __tracebackhide__ = True
        found = _hook_of(hook)
        if found.shape.is_event:
            raise TypeError(f"{found.name} handles events: use tyk_call.event({found.name}, ...)")
        default = "Response" if isinstance(found.shape, ResponseShape) else "Pre"
        obj = build_object(
            CallDescription(
                hook=found.name,
                hook_type=hook_type or found.definition.hook_type or default,
                bundle=_BUNDLE,
                method=method,
                url=url,
                headers=tuple((headers or {}).items()),
                body=_bytes(body) if json is None else _dumped(json),
                metadata=tuple((metadata or {}).items()),
                spec={
                    **({} if config_data is None else {"config_data": _dumped(config_data).decode()}),
                    **(spec or {}),
                },
                session=dict(session) if isinstance(session, Mapping) else None,
                response_status=response_status,
                response_headers=tuple((response_headers or {}).items()),
                response_body=_bytes(response_body),
            )
        )
        if isinstance(session, TykSession):
            obj.session.MergeFrom(session)
        return self._call(found, obj, grpc_metadata or {})

    def object(
        self, hook: Callable[..., Any], obj: Mapping[str, Any], reads: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Call a hook with a whole object, as `tykpy record show --json` prints it, and return the answer likewise.

        `reads`: what the hook is to read through `tyk`, as it is printed there, too.
        """
        __tracebackhide__ = True
        parsed = json_format.ParseDict(dict(obj), Object())
        before = READS.set(None if reads is None else ReplayedReads(msgspec.convert(dict(reads), CallReads)))
        try:
            received = self._call(_hook_of(hook), parsed, {}).received
        finally:
            READS.reset(before)
        answer: dict[str, Any] = json_format.MessageToDict(received, preserving_proto_field_name=True)
        return answer

    def _call(self, hook: Hook, obj: Object, metadata: Mapping[str, str | bytes]) -> HookResult:
        __tracebackhide__ = True
        sent = Object()
        sent.CopyFrom(obj)
        origin: Origin = MappingProxyType(dict(metadata)), 0, 1, None
        received = _run(hook, run_hook(hook, obj, TykCoProcessRequest(obj.request), origin))
        result = HookResult(hook.name, sent, received)
        self.results.append(result)
        return result

    def event(
        self,
        handler: Callable[..., Any],
        message: Mapping[str, Any] | None = None,
        spec: Mapping[str, str] | None = None,
        triggered: Mapping[str, Any] | None = None,
    ) -> None:
        """Call an `@Event` handler with an event of the gateway, or one `triggered` by a plugin.

        Raises what the handler raises.
        """
        __tracebackhide__ = True
        found = _hook_of(handler)
        if not found.shape.is_event:
            raise TypeError(f"{found.name} is not an event handler: use tyk_call({found.name}, ...)")
        payload = {"message": message or {}, "handler_name": found.name, "spec": spec or {"APIID": "", "OrgID": ""}}
        if triggered is not None:
            payload[TRIGGERED_KEY] = triggered
        _run(found, run_hook(found, TykEvent.from_json(_dumped(payload))))


def _hook_of(function: Callable[..., Any]) -> Hook:
    definition = definition_of(function)
    if definition is None:
        name = getattr(function, "__name__", repr(function))
        raise TypeError(f"{name} is not a hook: it has none of the decorators of tyk.decorators")
    return make_hook(function, definition, _BUNDLE, Path(getfile(function)).parent)


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _dumped(value: object) -> bytes:
    return dumps(value).encode()


def _run(hook: Hook, work: Coroutine[Any, Any, Any]) -> Any:
    """Run a hook to its end and return its object. Raises what the hook raised."""
    __tracebackhide__ = True
    invocation = Invocation(hook.is_async, work, lambda result: result)
    try:
        return _in_a_loop(invocation) if hook.is_async else invocation.run()
    except WorkerError as error:
        failure = _seen_by_the_test(error, hook.root)
    raise failure


def _seen_by_the_test(error: WorkerError, root: str) -> BaseException:
    """Return what the hook raised, or why what it returned is refused, without frames of ours."""
    cause = error.__cause__
    if cause is None or isinstance(cause, WrongReturnError):
        error.__cause__ = None
        return error.with_traceback(None)
    return cause.with_traceback(from_plugin(cause.__traceback__, root))


def _in_a_loop(invocation: Invocation) -> Any:
    """Run an async hook in a loop of its own; in another thread if the test itself runs in a loop."""
    if not _is_loop_running():
        return asyncio.run(invocation.run_async())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, asyncio.run, invocation.run_async()).result()


def _is_loop_running() -> bool:
    # A function of its own: what a hook raises must not be raised while RuntimeError is handled.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
