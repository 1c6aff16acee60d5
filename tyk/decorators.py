"""The decorators that turn a function of a bundle into a hook, or have it run as a worker starts and stops.

`@Pre` and `@Pre(timeout=0.5, idempotent=True)` both work and give back the function itself, marked with a
`HookDefinition` in `__tyk_hook__`. Its arguments, and whether it is `async`, are checked when its bundle is loaded.
The function also gets the attributes `f` and `name` of Tyk's own hook objects.
"""

import inspect
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast, overload

from tyk.errors import HookOptionError, NotAHookError
from tyk.shapes import EventHandler, MetadataHook, RequestHook, ResponseHook

__all__ = ["CustomKeyCheck", "Event", "Hook", "Post", "PostKeyAuth", "Pre"]
"""What `import *` brings in Tyk, too: `Response` would hide the one of Flask, requests and others in ported bundles."""

HOOK_ATTRIBUTE: Final = "__tyk_hook__"
"""The attribute of a decorated function that holds its `HookDefinition`."""
LIFESPAN_ATTRIBUTE: Final = "__tyk_lifespan__"
"""The attribute of a function that holds its `LifespanDefinition`."""

OnError: TypeAlias = Literal["fail", "continue"]

_HookT = TypeVar("_HookT", bound=RequestHook | MetadataHook | ResponseHook)
_ResponseHookT = TypeVar("_ResponseHookT", bound=ResponseHook)
_EventT = TypeVar("_EventT", bound=EventHandler)
_AnyT = TypeVar("_AnyT", bound=Callable[..., object])
_LifespanT = TypeVar("_LifespanT", bound=Callable[[], object])

_ON_ERROR: Final = ("fail", "continue")
_MUST_FAIL: Final = "CustomKeyCheck"
"""The hook type that must not continue after an error: the request would go through unchecked."""


@dataclass(frozen=True, slots=True)
class HookDefinition:
    """A hook's options, as its decorator has them."""

    name: str
    """The function's name, by which the manifest and the gateway call it."""
    hook_type: str | None
    """"Pre", "Post", "PostKeyAuth", "CustomKeyCheck", "Response" or "Event"; None: the manifest says."""
    timeout: float | None = None
    """Seconds the hook may take; None: the broker's own limit."""
    on_error: OnError = "fail"
    """"continue": when the hook fails, its object goes back to the gateway untouched."""
    idempotent: bool = False
    """The hook may be run a second time when its worker died during the first."""


class HookDecorator(Protocol):
    """A decorator for hooks; the number of arguments says what they return."""

    @overload
    def __call__(self, function: _HookT, /) -> _HookT: ...

    @overload
    def __call__(
        self, /, *, timeout: float | None = None, on_error: OnError = "fail", idempotent: bool = False
    ) -> Callable[[_HookT], _HookT]: ...


class ResponseDecorator(Protocol):
    """The decorator for hooks that change the upstream's response."""

    @overload
    def __call__(self, function: _ResponseHookT, /) -> _ResponseHookT: ...

    @overload
    def __call__(
        self, /, *, timeout: float | None = None, on_error: OnError = "fail", idempotent: bool = False
    ) -> Callable[[_ResponseHookT], _ResponseHookT]: ...


class EventDecorator(Protocol):
    """The decorator for handlers of the gateway's events."""

    @overload
    def __call__(self, function: _EventT, /) -> _EventT: ...

    @overload
    def __call__(
        self, /, *, timeout: float | None = None, on_error: OnError = "fail", idempotent: bool = False
    ) -> Callable[[_EventT], _EventT]: ...


class _Decorator:
    """Checks the options, then marks the function."""

    def __init__(self, name: str, hook_type: str | None) -> None:
        self._name = name
        self._hook_type = hook_type

    def __repr__(self) -> str:
        return f"@{self._name}"

    def __call__(
        self,
        function: Any = None,
        /,
        *,
        timeout: float | None = None,
        on_error: OnError = "fail",
        idempotent: bool = False,
    ) -> Any:
        """Mark a function as a hook, or as an event handler.

        `timeout`: seconds it may take. `on_error="continue"`: a failure lets the object pass untouched.
        `idempotent=True`: it may run again if its worker died. Raises HookOptionError, NotAHookError.
        """
        _check_options(self._name, timeout, on_error, idempotent)
        seconds = None if timeout is None else float(timeout)

        def mark(decorated: _AnyT) -> _AnyT:
            name = _hook_name(self._name, decorated)
            definition = HookDefinition(name, self._hook_type, seconds, on_error, idempotent)
            return _mark(self._name, decorated, definition)

        return mark if function is None else mark(function)


def _check_options(decorator: str, timeout: object, on_error: object, idempotent: object) -> None:
    if timeout is not None and not _is_positive_number(timeout):
        raise HookOptionError(
            decorator,
            f"timeout is a number of seconds above 0, or None for the broker's limit; got {timeout!r}",
        )
    if on_error not in _ON_ERROR:
        raise HookOptionError(decorator, f'on_error is "fail" or "continue"; got {on_error!r}')
    if on_error == "continue" and decorator == _MUST_FAIL:
        raise HookOptionError(
            decorator,
            'on_error="continue" is refused for an authentication hook: a failure would let requests through unchecked',
        )
    if not isinstance(idempotent, bool):
        raise HookOptionError(decorator, f"idempotent is True or False; got {idempotent!r}")


def _is_positive_number(value: object) -> bool:
    return type(value) in (int, float) and 0 < cast(float, value) <= sys.float_info.max


def _mark(decorator: str, function: _AnyT, definition: HookDefinition) -> _AnyT:
    try:
        setattr(function, HOOK_ATTRIBUTE, definition)
    except AttributeError as error:
        raise NotAHookError(decorator, f"decorates a function, which {function!r} is not") from error
    plain = function.__func__ if isinstance(function, staticmethod) else function
    if isinstance(plain, FunctionType):
        vars(plain).update({HOOK_ATTRIBUTE: definition, "f": plain, "name": definition.name})
    return function


def _hook_name(decorator: str, function: object) -> str:
    name = getattr(function, "__name__", None)
    if isinstance(function, type) or not callable(function) or not isinstance(name, str):
        raise NotAHookError(
            decorator,
            f"decorates a function, and its options are given by name (timeout=...); got {function!r}",
        )
    if getattr(function, HOOK_ATTRIBUTE, None) is not None:
        raise NotAHookError(
            decorator,
            f"is on {name}, which is a hook already: a function takes one decorator, define another function",
        )
    if isinstance(function, FunctionType) and LIFESPAN_ATTRIBUTE in vars(function):
        raise NotAHookError(decorator, f"is on {name}, which has another decorator: define another function")
    # A subclass of str could run plugin code wherever the name is compared.
    return str.__str__(name)


Hook: Final[HookDecorator] = _Decorator("Hook", None)
"""A hook of any type: the manifest says where it runs."""

Pre: Final[HookDecorator] = _Decorator("Pre", "Pre")
"""Runs first, before authentication: there is no session yet."""

CustomKeyCheck: Final[HookDecorator] = _Decorator("CustomKeyCheck", "CustomKeyCheck")
"""Authenticates the request; returns a session whose metadata has a `token`, or sets an override."""

PostKeyAuth: Final[HookDecorator] = _Decorator("PostKeyAuth", "PostKeyAuth")
"""Runs right after authentication, with the session."""

Post: Final[HookDecorator] = _Decorator("Post", "Post")
"""Runs last before the upstream is called."""

Response: Final[ResponseDecorator] = _Decorator("Response", "Response")
"""Runs on the upstream's answer: `(request, response, session, metadata, spec)`, returns the response."""

Event: Final[EventDecorator] = _Decorator("Event", "Event")
"""Handles an event of the gateway: `(event, spec)`, returns nothing."""


@dataclass(frozen=True, slots=True)
class LifespanDefinition:
    """When a function runs that is no hook."""

    at_start: bool
    """As its worker starts; otherwise as it stops."""
    order: int
    """Grows with each decorated function."""


_orders: Final = itertools.count()


def on_start(function: _LifespanT, /) -> _LifespanT:
    """Run a function, `def` or `async def`, in each worker before the worker takes calls.

    The functions of a bundle run in the order of their definition, `async def` ones on the event loop of its hooks. If
    one raises, the bundle is not served. Raises NotAHookError for anything but a function without arguments.
    """
    return _mark_lifespan("on_start", function)


def on_stop(function: _LifespanT, /) -> _LifespanT:
    """Run a function, `def` or `async def`, in each worker that ends, when its last call has been answered.

    The functions of a bundle run in the reverse order of their definition, in a thread of their own or on the event
    loop of its hooks, and have 5 seconds together. They do not run when a worker crashes or is killed. Raises
    NotAHookError for anything but a function without arguments.
    """
    return _mark_lifespan("on_stop", function)


def _mark_lifespan(decorator: str, function: _LifespanT) -> _LifespanT:
    if not isinstance(function, FunctionType):
        raise NotAHookError(decorator, f"decorates a function, which {function!r} is not")
    name, attributes = function.__name__, vars(function)
    if HOOK_ATTRIBUTE in attributes or LIFESPAN_ATTRIBUTE in attributes:
        raise NotAHookError(decorator, f"is on {name}, which has another decorator: define another function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise NotAHookError(decorator, f"is on {name}, which yields: split it into @on_start and @on_stop")
    code = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ())
    if needed or code.co_kwonlyargcount > len(function.__kwdefaults__ or ()):
        raise NotAHookError(decorator, f"is on {name}, which takes arguments: it is called without any")
    attributes[LIFESPAN_ATTRIBUTE] = LifespanDefinition(decorator == "on_start", next(_orders))
    return function
