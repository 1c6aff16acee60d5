"""The decorators: what they mark, what they leave unchanged, and what they refuse."""

import asyncio
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest

import tyk.decorators
from tyk.decorators import (
    CustomKeyCheck,
    Event,
    Hook,
    HookDefinition,
    LifespanDefinition,
    Post,
    PostKeyAuth,
    Pre,
    Response,
    on_start,
    on_stop,
)
from tyk.errors import HookOptionError, NotAHookError, TykError

DECORATORS: list[tuple[Any, str | None]] = [
    (Hook, None),
    (Pre, "Pre"),
    (Post, "Post"),
    (PostKeyAuth, "PostKeyAuth"),
    (CustomKeyCheck, "CustomKeyCheck"),
    (Response, "Response"),
    (Event, "Event"),
]


def definition_of(function: object) -> HookDefinition:
    definition = function.__tyk_hook__  # type: ignore[attr-defined]
    assert isinstance(definition, HookDefinition)
    return definition


def make_function() -> Callable[..., Any]:
    def my_hook(*arguments: object) -> tuple[object, ...]:
        return arguments

    return my_hook


@pytest.mark.parametrize(("decorator", "hook_type"), DECORATORS)
def test_without_parentheses(decorator: Any, hook_type: str | None) -> None:
    function = make_function()
    assert decorator(function) is function
    assert definition_of(function) == HookDefinition("my_hook", hook_type, None, "fail", False)


@pytest.mark.parametrize(("decorator", "hook_type"), DECORATORS)
def test_with_options(decorator: Any, hook_type: str | None) -> None:
    function = make_function()
    assert decorator(timeout=2, idempotent=True)(function) is function
    assert definition_of(function) == HookDefinition("my_hook", hook_type, 2.0, "fail", True)
    assert type(definition_of(function).timeout) is float


@pytest.mark.parametrize(("decorator", "hook_type"), DECORATORS)
def test_with_empty_parentheses(decorator: Any, hook_type: str | None) -> None:
    assert definition_of(decorator()(make_function())) == HookDefinition("my_hook", hook_type)


@pytest.mark.parametrize("decorator", [d for d, hook_type in DECORATORS if hook_type != "CustomKeyCheck"])
def test_continue_after_an_error(decorator: Any) -> None:
    assert definition_of(decorator(on_error="continue")(make_function())).on_error == "continue"


def test_the_function_works_as_before() -> None:
    assert Pre(make_function())(1, 2, 3) == (1, 2, 3)


def test_an_async_function_stays_async() -> None:
    @Pre(timeout=1)
    async def my_hook(request: Any, session: Any, spec: Any) -> Any:
        return request, session

    assert asyncio.iscoroutinefunction(my_hook)
    assert definition_of(my_hook).name == "my_hook"


def test_the_star_import_brings_the_decorators_only() -> None:
    assert sorted(tyk.decorators.__all__) == ["CustomKeyCheck", "Event", "Hook", "Post", "PostKeyAuth", "Pre"]
    assert {repr(getattr(tyk.decorators, name))[1:] for name in tyk.decorators.__all__} == set(tyk.decorators.__all__)


def test_functions_have_the_attributes_of_tyks_hooks() -> None:
    @Hook
    def my_hook(request: str, session: str, spec: str) -> Any:
        return request + session + spec

    hook: Any = my_hook
    assert (hook.name, hook.f("a", "b", "c"), hook("a", "b", "c")) == ("my_hook", "abc", "abc")


def test_static_methods_are_marked_inside_and_outside() -> None:
    class Checks:
        @Hook
        @staticmethod
        def outer(request: object, session: object, spec: object) -> Any: ...

        @staticmethod
        @Hook
        def inner(request: object, session: object, spec: object) -> Any: ...

    assert [definition_of(function).name for function in (Checks.outer, Checks.inner)] == ["outer", "inner"]


def test_a_definition_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        definition_of(Pre(make_function())).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("timeout", [0, -1, -0.5, math.nan, math.inf, "1", True, [1]])
def test_a_timeout_is_a_positive_number(timeout: Any) -> None:
    with pytest.raises(HookOptionError, match="@Pre: timeout is a number of seconds above 0"):
        Pre(timeout=timeout)


@pytest.mark.parametrize("on_error", ["ignore", "", None, True])
def test_on_error_is_fail_or_continue(on_error: Any) -> None:
    with pytest.raises(HookOptionError, match='@Post: on_error is "fail" or "continue"'):
        Post(on_error=on_error)


@pytest.mark.parametrize("idempotent", [1, None, "yes"])
def test_idempotent_is_a_boolean(idempotent: Any) -> None:
    with pytest.raises(HookOptionError, match="@Response: idempotent is True or False"):
        Response(idempotent=idempotent)


def test_an_authentication_hook_never_continues() -> None:
    with pytest.raises(HookOptionError, match=r"@CustomKeyCheck: .* let requests through unchecked"):
        CustomKeyCheck(on_error="continue")
    assert definition_of(CustomKeyCheck(on_error="fail")(make_function())).on_error == "fail"


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="time_out"):
        Pre(time_out=1)  # type: ignore[call-overload]


@pytest.mark.parametrize("wrong", [1.0, "name", int, len, functools.partial(print), [].append])
def test_only_functions_are_decorated(wrong: Any) -> None:
    with pytest.raises(NotAHookError, match="@Hook decorates a function"):
        Hook(wrong)


def test_one_decorator_per_function() -> None:
    function = Pre(make_function())
    with pytest.raises(NotAHookError, match="@Post is on my_hook, which is a hook already"):
        Post(function)
    assert definition_of(function).hook_type == "Pre"


def test_a_wrapper_of_a_hook_is_the_hook() -> None:
    hook = Pre(timeout=3)(make_function())

    @functools.wraps(hook)
    def logged(*arguments: object) -> object:
        return hook(*arguments)

    assert definition_of(logged) == definition_of(hook)


def test_errors_have_builtin_bases() -> None:
    assert HookOptionError.__mro__[1:3] == (TykError, ValueError)
    assert NotAHookError.__mro__[1:3] == (TykError, TypeError)


@pytest.mark.parametrize("decorator", [on_start, on_stop])
def test_lifespan_decorators_return_the_function(decorator: Any) -> None:
    def connect(url: str = "", *, timeout: float = 1) -> None: ...

    assert decorator(connect) is connect
    definition = vars(connect)["__tyk_lifespan__"]
    assert (type(definition), definition.at_start) == (LifespanDefinition, decorator is on_start)


def test_lifespan_functions_are_numbered_in_order() -> None:
    first, second = on_start(lambda: None), on_stop(lambda: None)
    assert vars(first)["__tyk_lifespan__"].order < vars(second)["__tyk_lifespan__"].order


def _takes_one(argument: object) -> None: ...


def _takes_one_by_name(*, argument: object) -> None: ...


def _yields() -> Any:
    yield


async def _yields_async() -> Any:
    yield


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_takes_one, "takes arguments"),
        (_takes_one_by_name, "takes arguments"),
        (_yields, "yields: split it"),
        (_yields_async, "yields: split it"),
        (print, "decorates a function"),
        (Pre(make_function()), "another decorator"),
        (on_stop(lambda: None), "another decorator"),
    ],
)
def test_lifespan_decorators_refuse_other_things(function: Any, message: str) -> None:
    with pytest.raises(NotAHookError, match=f"@on_start.* {message}"):
        on_start(function)


def test_a_lifespan_function_is_no_hook() -> None:
    function: Any = on_start(lambda *_: None)
    with pytest.raises(NotAHookError, match="another decorator"):
        Pre(function)
