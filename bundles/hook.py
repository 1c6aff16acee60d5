"""One hook of a bundle: its function, its shape, and its options from manifest and decorator."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from tyk.decorators import HOOK_ATTRIBUTE, LIFESPAN_ATTRIBUTE, HookDefinition, LifespanDefinition
from tykpy.bundles.arguments import shape_for
from tykpy.bundles.errors import BundleError
from tykpy.bundles.files.manifest import HOOK_TYPES, ListedHook
from tykpy.bundles.shapes import Shape
from tykpy.ipc.description import MAX_FILE, MAX_NAME, MAX_TIMEOUT
from tykpy.ipc.text import bounded

MAX_WRAPPERS: Final = 100
"""Layers around a function that are looked through: an object may say that it wraps itself."""
_EVENT: Final = "Event"
_TYPES: Final = frozenset({_EVENT, *HOOK_TYPES.values()})


@dataclass(slots=True, eq=False)
class Hook:
    """A function to run for a dispatch. It is read at every dispatch, so everything is computed beforehand."""

    name: str
    bundle: str
    function: Callable[..., Any]
    definition: HookDefinition
    shape: Shape
    is_async: bool
    file: str
    line: int
    root: str
    """The folder of the bundle's files. Traceback frames of files below it belong to the plugin."""
    listed: tuple[ListedHook, ...] = ()
    continues: bool = field(init=False)
    """If this hook fails, its object goes on untouched, except for an authentication."""
    unwatched_calls: int = 1
    """Calls until workers/dispatch/sampled_checks.py checks one; events are never checked."""
    looks: int = 0
    has_left_token: bool = False
    """An authentication hook left a token in one of the checked calls."""
    silent_until: dict[str, float] = field(default_factory=dict)
    """By rule: when its warning may be logged again (monotonic seconds)."""

    def __post_init__(self) -> None:
        self.continues = self.definition.on_error == "continue" and not self.shape.is_event

    @property
    def timeout(self) -> float | None:
        """Seconds the hook may take: the manifest's, else the decorator's, else None."""
        return next((entry.timeout for entry in self.listed if entry.timeout), self.definition.timeout)

    def describe(self) -> dict[str, Any]:
        """Return the description that `tykpy hooks` and the router use, as a map that msgpack can encode."""
        return {
            "name": self.name,
            "hook_type": self.definition.hook_type,
            "shape": self.shape.signature,
            "is_async": self.is_async,
            "timeout": self.timeout,
            "on_error": self.definition.on_error,
            "idempotent": self.definition.idempotent,
            "file": bounded(self.file, MAX_FILE),
            "line": self.line,
            "listed": list(dict.fromkeys(entry.hook_type for entry in self.listed)),
            "disabled": bool(self.listed) and all(entry.disabled for entry in self.listed),
        }


def definition_of(value: object) -> HookDefinition | None:
    """Return the definition that a decorator has put on `value`, without running any of its code (it may be lazy)."""
    target = value.__func__ if type(value) is MethodType else value
    if type(target) is FunctionType:  # nearly always, and ten times faster
        definition = target.__dict__.get(HOOK_ATTRIBUTE)
    else:
        try:
            definition = inspect.getattr_static(target, HOOK_ATTRIBUTE, None)
        except BaseException:  # noqa: BLE001 (the code of its metaclass runs all the same)
            return None
    return definition if type(definition) is HookDefinition and type(definition.name) is str else None


def lifespan_of(value: object) -> LifespanDefinition | None:
    """Return the definition that `@on_start` or `@on_stop` has put on `value`."""
    definition = value.__dict__.get(LIFESPAN_ATTRIBUTE) if type(value) is FunctionType else None
    return definition if type(definition) is LifespanDefinition else None


def known_type(definition: HookDefinition) -> str | None:
    """Return the hook type of a definition; None if it has none or an unknown one."""
    hook_type: object = definition.hook_type
    return hook_type if type(hook_type) is str and hook_type in _TYPES else None


def make_hook(
    function: Callable[..., Any],
    definition: HookDefinition,
    bundle: str,
    root: Path,
    listed: tuple[ListedHook, ...] = (),
    name: str = "",
) -> Hook:
    """Look at a decorated function once, so that no dispatch has to.

    Raises BundleError if its arguments fit no shape, or its options cannot work.
    """
    name = name or definition.name
    file, line = source_of(function)
    try:
        _check_name(name)
        _check_options(definition, listed)
        shape = shape_for(_parameters(function), _roles(definition, listed))
    except ValueError as error:
        raise BundleError(f"hook {bounded(name, MAX_NAME)} {error}", file, line) from error
    hook = Hook(name, bundle, function, definition, shape, _is_async(function), file, line, str(root), listed)
    if shape.is_event:
        hook.unwatched_calls = sys.maxsize
    return hook


def _check_name(name: str) -> None:
    if bounded(name, MAX_NAME) != name:
        raise ValueError(f"has a name that no gateway can send: at most {MAX_NAME} characters of valid Unicode")


def _check_options(definition: HookDefinition, listed: tuple[ListedHook, ...]) -> None:
    """Raise ValueError if an option cannot work. Plugin code may have made the definition without a decorator."""
    for timeout in (definition.timeout, *(entry.timeout for entry in listed)):
        if timeout is not None and not (type(timeout) is float and 0 < timeout <= MAX_TIMEOUT):
            raise ValueError(
                f"has a timeout of {timeout!r} seconds: possible is more than 0 and at most {MAX_TIMEOUT:.0f}; "
                "leave it out for the broker's own limit"
            )
    if (
        known_type(definition) is not definition.hook_type
        or (type(definition.on_error), type(definition.idempotent)) != (str, bool)
        or definition.on_error not in ("fail", "continue")
    ):
        raise ValueError("has options that no decorator of tyk.decorators sets")


def source_of(function: Callable[..., Any]) -> tuple[str, int]:
    """Return the file and line of a function; empty and 0 if it is not written in Python."""
    code = getattr(_plain(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if isinstance(code, CodeType) else ("", 0)


def _plain(function: Any) -> Any:
    """Unwrap partials, methods, `functools.wraps` and callable objects, `MAX_WRAPPERS` of them at most."""
    for _ in range(MAX_WRAPPERS):
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif not inspect.isroutine(function) and inspect.ismethod(getattr(function, "__call__", None)):  # noqa: B004
            function = function.__call__
        else:
            break
    return function


def _is_async(function: Any) -> bool:
    """Whether a call returns a coroutine. A plain wrapper around a coroutine function may run it to its end itself."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def _roles(definition: HookDefinition, listed: tuple[ListedHook, ...]) -> tuple[bool, ...]:
    """Return which shapes a hook may have: those of events (True), of requests (False), or both."""
    if definition.hook_type is None:
        return (False,) if listed else (False, True)
    return (definition.hook_type == _EVENT,)


def _parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ValueError(f"has no signature to look at: {error}") from error
