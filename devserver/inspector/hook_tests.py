"""A request as a pytest test that calls the same hooks and event handlers: "copy as test"."""

import builtins
import json
import keyword
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from google.protobuf import json_format

from tyk.event import TRIGGERED_KEY
from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.observe.http import is_local_name
from tykpy.devserver.hooks.contract import HookAnswer, LoadedBundles, Problem
from tykpy.devserver.trace import HandlerCall, HookCall, Trace
from tykpy.telemetry.records import printable
from tykpy.workers.objects.changes import Change

MODULE: Final = "middleware"
"""The module that hooks are imported from if theirs is not known, or has no name for an import."""
MAX_LITERAL: Final = 64 * 1024
"""Longest body in a test, in bytes."""
MAX_NAME: Final = 60
MAX_COMMENT: Final = 100
MAX_LINE: Final = 120
"""Longest line that the settings of `tykpy new` allow, in characters."""
MAX_ARGUMENT: Final = MAX_LINE - 12
"""Longest argument in one line, without its indentation of two or three levels."""
_LAST_KEY: Final = re.compile(r"^(.*)\[([^\[\]]+|'.*'|\".*\")\]$")
_KEY: Final = re.compile(r"\[('[^']*')\]")


def modules_of(loaded: LoadedBundles) -> dict[str, str]:
    """Return the module of each hook, as a test beside the bundle's files imports it."""
    return {
        hook["name"]: _module(hook["file"], bundle["path"]) for bundle in loaded.bundles for hook in bundle["hooks"]
    }


def pytest_code(trace: Trace, modules: Mapping[str, str]) -> str:
    """Return a module with one test. Values are those of the request, secrets too."""
    calls = [*map(_hook_call, trace.hooks), *map(_handler_call, trace.events)]
    tested = [call for call in calls if not call.reason_to_skip]
    triggered = [event.name for call in tested for event in call.answer.triggered]
    body = [line for call in calls for line in _call_lines(call)]
    if triggered:
        body.append(f"assert [event.name for event in tyk_events] == {_literal(triggered)}")
    if not tested:
        body.append("pass  # no hook was called")
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(trace.started))
    first_line = printable(f"{trace.request.method} {_escaped(trace.request.url)}", MAX_COMMENT)
    types = ["HookCaller", *(["TriggeredEvent"] if triggered else [])]
    fixtures = ["tyk_call: HookCaller", *(["tyk_events: list[TriggeredEvent]"] if triggered else [])]
    lines = [
        *(["import re", ""] if any("re.escape" in line for line in body) else []),
        *(["import pytest"] if any("pytest.raises" in line for line in body) else []),
        f"from tykpy.testing import {', '.join(types)}",
        "",
        *_imports(tested, modules),
        "",
        "",
        f"def {_test_name(trace)}({', '.join(fixtures)}) -> None:",
        f"    # {first_line}, {when}. Check values that differ from call to call: ids, times.",
        *map(_in_function, body),
    ]
    return "\n".join(lines) + "\n"


def _in_function(line: str) -> str:
    return f"    {line}" if len(line) <= MAX_LINE - 4 else f"    {line}  # noqa: E501"


@dataclass(frozen=True, slots=True)
class _TestCall:
    """A call of a hook or event handler, as a test repeats it."""

    name: str
    answer: HookAnswer
    size: int
    """Bytes of the longest value among the arguments."""
    function: str
    """What the test calls."""
    arguments: tuple[tuple[str, Any], ...]
    assertions: tuple[str, ...] = ()
    """About `result`; none: the call returns nothing."""

    @property
    def reason_to_skip(self) -> str:
        """Why a test cannot make the call; empty if it can."""
        if not _is_name(self.name):
            return "its name cannot be imported"
        if self.size > MAX_LITERAL:
            return "its body is too long"
        problem = self.answer.problem
        return problem.message if problem is not None and not problem.exception else ""


def _hook_call(call: HookCall) -> _TestCall:
    size = max(len(call.sent.request.raw_body), len(call.sent.response.raw_body))
    assertions = [_assertion(change) for change in call.changes] or ["assert result.changes == []"]
    return _TestCall(call.name, call.answer, size, "tyk_call", tuple(_arguments(call.sent)), tuple(assertions))


def _handler_call(call: HandlerCall) -> _TestCall:
    event = json.loads(call.payload)
    arguments = [(name, event[name]) for name in ("message", "spec", TRIGGERED_KEY) if event.get(name)]
    return _TestCall(call.handler, call.answer, len(call.payload), "tyk_call.event", tuple(arguments))


def _module(file: str, bundle: str) -> str:
    path = PurePath(file)
    is_below = path.is_relative_to(bundle) and file != bundle
    parts = path.relative_to(bundle).with_suffix("").parts if is_below else (path.stem,)
    return ".".join(parts) if all(map(_is_name, parts)) else MODULE


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _imports(calls: Iterable[_TestCall], modules: Mapping[str, str]) -> Iterator[str]:
    names: dict[str, set[str]] = {}
    for call in calls:
        names.setdefault(modules.get(call.name, MODULE), set()).add(call.name)
    for module in sorted(names):
        yield f"from {module} import {', '.join(sorted(names[module]))}"


def _test_name(trace: Trace) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", f"{trace.request.method} {trace.request.path}".lower())
    return f"test_{words[:MAX_NAME].strip('_')}"


def _call_lines(call: _TestCall) -> Iterator[str]:
    if call.reason_to_skip:
        yield printable(f"# {_escaped(call.name)} is not called: {_escaped(call.reason_to_skip)}", MAX_COMMENT * 2)
        return
    fails = call.answer.problem is not None
    lines = [
        f"{'result = ' if call.assertions and not fails else ''}{call.function}(",
        f"    {call.name},",
        *(f"    {line}" for name, value in call.arguments for line in _argument_lines(name, value)),
        ")",
    ]
    if call.answer.problem is not None:
        yield f"with pytest.raises({_expected(call.answer.problem)}):"
        yield from (f"    {line}" for line in lines)
    else:
        yield from (*lines, *call.assertions)


def _argument_lines(name: str, value: Any) -> Iterator[str]:
    """Yield an argument as ruff formats it: a mapping that is too long for a line has one for each entry."""
    line = f"{name}={_literal(value)},"
    if len(line) <= MAX_ARGUMENT or not isinstance(value, dict):
        yield line
        return
    yield f"{name}={{"
    yield from (f"    {_literal(key)}: {_literal(item)}," for key, item in value.items())
    yield "},"


def _arguments(sent: Object) -> Iterator[tuple[str, Any]]:
    """Yield what `tyk_call` needs to build the same object."""
    request = sent.request
    headers = {name: value for name, value in request.headers.items() if name != "Host"}
    host = request.headers.get("Host", "localhost")
    needs_host = request.url.startswith("/") and not is_local_name(host)
    spec = {name: value for name, value in sent.spec.items() if value and name not in ("bundle_hash", "config_data")}
    session = json_format.MessageToDict(sent.session, preserving_proto_field_name=True)
    session = {name: value for name, value in session.items() if value != {}}
    metadata = {**session.pop("metadata", {}), **sent.metadata}
    found: Iterable[tuple[str, Any]] = (
        ("hook_type", HookType.Name(sent.hook_type)),
        ("method", request.method),
        ("url", f"{request.scheme or 'http'}://{host}{request.url}" if needs_host else request.url),
        ("headers", headers),
        ("body", _body(request.raw_body)),
        ("session", session),
        ("metadata", metadata),
        ("spec", spec),
        ("config_data", _config_data(sent.spec.get("config_data", ""))),
    )
    yield from (pair for pair in found if pair[1])
    if sent.hook_type == HookType.Response:
        yield "response_status", sent.response.status_code
        yield "response_headers", dict(sent.response.headers)
        yield "response_body", _body(sent.response.raw_body)


def _config_data(text: str) -> Any:
    return json.loads(text) if text else None


def _body(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _assertion(change: Change) -> str:
    """Return the line that expects a change. Paths of changes are Python expressions."""
    path = _KEY.sub(lambda key: f"[{_double_quoted(key[1])}]", change.path)
    header = path.removeprefix("request.set_headers")
    place = f"result.received.{path}" if header == path else f"result.headers{header}"
    if change.after is not None:
        return f"assert {place} == {_double_quoted(change.after)}"
    key = _LAST_KEY.match(place)
    if key is None:
        return f"assert not {place}"
    return f"assert len({key[1]}) <= {key[2]}" if key[2].isdigit() else f"assert {key[2]} not in {key[1]}"


def _expected(problem: Problem) -> str:
    """Return the arguments of `pytest.raises`."""
    name, _, text = problem.exception.partition(": ")
    kind = getattr(builtins, name, None)
    known = name if isinstance(kind, type) and issubclass(kind, BaseException) else "Exception"
    return f"{known}, match=re.escape({_literal(text)})" if 0 < len(text) <= MAX_COMMENT else known


def _literal(value: Any) -> str:
    """Return Python code for a value; strings in double quotes where that needs no escapes."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return _double_quoted(repr(value))


def _double_quoted(code: str) -> str:
    """Return the code of a string in double quotes if that needs no escapes; other code as it is."""
    plain = code.removeprefix("b")
    if plain[0] != "'" or '"' in code or "\\'" in code:
        return code
    return f'{code[: len(code) - len(plain)]}"{plain[1:-1]}"'


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
