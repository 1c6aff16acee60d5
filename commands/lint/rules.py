"""The rules of lint: what a hook does that the gateway ignores, and what keeps a hook from running at all."""

import ast
from collections.abc import Iterator
from itertools import chain
from typing import Final

from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.commands.lint.blocking import blocking_calls
from tykpy.commands.lint.effects import METADATA, ROLES, Effect, FunctionReading, Place, read_function
from tykpy.commands.lint.findings import Finding, at, without_pardoned
from tykpy.commands.lint.returns import return_findings
from tykpy.commands.lint.sources import SourceFile, SourceHook, Sources
from tykpy.commands.lint.state import classes_kept_by_modules, last_name, shared_state
from tykpy.workers.dispatch import ignored_changes
from tykpy.workers.dispatch.ignored_changes import MAX_CODE, MIN_CODE, Ignored

_AUTH: Final = "CustomKeyCheck"
_EVENT: Final = "Event"
_RESPONSE: Final = "Response"
_NEW_RESPONSES: Final = frozenset({"ResponseObject", "TykResponse"})
_WITHOUT_EFFECT: Final[dict[Place, Ignored]] = {
    ("request", "object", "body"): ignored_changes.REQUEST_BODY,
    ("request", "object", "headers"): ignored_changes.REQUEST_HEADERS,
    ("request", "object", "params"): ignored_changes.REQUEST_PARAMS,
    ("request", "object", "scheme"): ignored_changes.REQUEST_FIXED,
    ("request", "object", "request_uri"): ignored_changes.REQUEST_FIXED,
    ("response", "body"): ignored_changes.RESPONSE_BODY,
}
_CODE: Final[Place] = ("request", "object", "return_overrides", "response_code")
_REAL_BODY: Final[dict[Place, Place]] = {
    ("request", "object", "body"): ("request", "object", "raw_body"),
    ("response", "body"): ("response", "raw_body"),
}
"""Who sets both keeps them alike."""


def findings_of(sources: Sources, shown: str) -> list[Finding]:
    """Return everything there is to say about a bundle, by file and line."""
    found = [*sources.unreadable, *sources.unloadable, *missing_hooks(sources, shown)]
    kept = classes_kept_by_modules(sources.files)
    for file in sources.files:
        if not file.is_vendored:
            found += without_pardoned(chain(in_any_bundle(file, kept), _in_file(file)), file.name, file.text)
    return sorted(set(found))


def in_any_bundle(file: SourceFile, shared_classes: frozenset[str]) -> Iterator[Finding]:
    """Yield what is worth a look whether the bundle was written for embedded Python or for tykpy."""
    yield from hooks_that_cannot_run(file)
    for hook in file.hooks:
        yield from return_findings(hook, file)
        if hook.types == {_AUTH} and not _may_leave_a_token(read_function(hook.function, file)):
            yield at(file.name, hook.function, ignored_changes.NO_TOKEN.kind, ignored_changes.NO_TOKEN)
    yield from shared_state(file, shared_classes)
    yield from blocking_calls(file)


def hooks_that_cannot_run(file: SourceFile) -> Iterator[Finding]:
    """Yield what keeps the file's hooks from being loaded."""
    for hook in file.hooks:
        yield from _not_decorated(hook, file)
        yield from _arguments_that_fit_no_shape(hook, file)


def _in_file(file: SourceFile) -> Iterator[Finding]:
    for hook in file.hooks:
        reading = read_function(hook.function, file)
        for node, found in _ignored_in(hook, reading):
            yield at(file.name, node, found.kind, found)


def _ignored_in(hook: SourceHook, reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    if hook.types == {_RESPONSE}:
        yield from _request_in_a_response_hook(reading)
    else:
        yield from _url(reading)
        yield from _host(reading)
        yield from _override_code(reading)
    yield from _without_effect(reading)
    yield from _response(hook, reading)
    yield from _session(hook, reading)


def _without_effect(reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    changed = {effect.place for effect in reading.effects}
    for effect in reading.effects:
        found = _WITHOUT_EFFECT.get(effect.place)
        if found is not None and _REAL_BODY.get(effect.place) not in changed:
            yield effect.node, found


def _url(reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    for effect in reading.effects:
        if effect.place != ("request", "object", "url") or effect.value is None:
            continue
        if isinstance(effect.value, ast.Constant) and effect.value.value == "":
            yield effect.node, ignored_changes.URL_EMPTY
        elif _writes_query(effect.value):
            yield effect.node, ignored_changes.URL_QUERY


def _host(reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    for effect in reading.effects:
        name = effect.arguments[0] if effect.how == "add_header" and effect.arguments else None
        if effect.place == ("request", "object", "set_headers") and effect.key is not None:
            name = ast.Constant(effect.key)
        if isinstance(name, ast.Constant) and isinstance(name.value, str) and name.value.lower() == "host":
            yield effect.node, ignored_changes.HOST


def _override_code(reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    for effect in reading.effects:
        if effect.place != _CODE or not isinstance(effect.value, ast.Constant):
            continue
        if isinstance(code := effect.value.value, int) and (0 < code < MIN_CODE or code > MAX_CODE):
            yield effect.node, ignored_changes.OVERRIDE_CODE


def _writes_query(value: ast.expr) -> bool:
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "?" in node.value:
            return True
        if isinstance(node, ast.Name | ast.Attribute) and last_name(node) == "urlencode":
            return True
    return False


def _request_in_a_response_hook(reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    for effect in reading.effects:
        if effect.place[0] == "request" and effect.place not in _WITHOUT_EFFECT:
            yield effect.node, ignored_changes.RESPONSE_REQUEST


def _response(hook: SourceHook, reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    if len(hook.parameters) not in ROLES or hook.types.isdisjoint({_RESPONSE}):
        return
    yield from _status_zero(reading)
    yield from _only_multivalue(reading)


def _status_zero(reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    set_later = any(isinstance(node, ast.Attribute) and node.attr == "status_code" for node in reading.nodes)
    for effect in reading.effects:
        zero = isinstance(effect.value, ast.Constant) and effect.value.value == 0
        if effect.place == ("response", "status_code") and zero:
            yield effect.node, ignored_changes.RESPONSE_STATUS
    for node in reading.nodes:
        if not set_later and isinstance(node, ast.Call) and _is_response_without_status(node):
            yield node, ignored_changes.RESPONSE_STATUS


def _is_response_without_status(call: ast.Call) -> bool:
    given = {keyword.arg for keyword in call.keywords}  # None: **something
    return last_name(call.func) in _NEW_RESPONSES and given.isdisjoint({"status_code", None})


def _only_multivalue(reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    """Headers added to the lists alone are kept as long as nothing changes the map of first values."""
    changes = [effect for effect in reading.effects if effect.place == ("response", "headers")]
    keys = {effect.key for effect in changes}
    for effect in reading.effects:
        if effect.place != ("response", "multivalue_headers") or effect.how not in ("add", "append", "extend"):
            continue
        if changes and _header_key(effect) not in keys:
            yield effect.node, ignored_changes.RESPONSE_HEADERS


def _header_key(effect: Effect) -> str | None:
    if not isinstance(effect.node, ast.Call):
        return None
    for call in ast.walk(effect.node):
        for keyword in call.keywords if isinstance(call, ast.Call) else []:
            if keyword.arg == "key" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    return None


def _session(hook: SourceHook, reading: FunctionReading) -> Iterator[tuple[ast.AST, Ignored]]:
    if _EVENT in hook.types or not hook.types or len(hook.parameters) not in ROLES:
        return
    if _AUTH not in hook.types:
        yield from (
            (effect.node, ignored_changes.SESSION) for effect in reading.effects if effect.place[0] == "session"
        )


def _may_leave_a_token(reading: FunctionReading) -> bool:
    """Say whether "token" is written anywhere, or the session is given to, or comes from, something unknown."""
    if any(isinstance(node, ast.Constant) and node.value == "token" for node in reading.nodes):
        return True
    if reading.handed_on & {("session",), METADATA} or _returns_something_new(reading):
        return True
    whole = {("session",), METADATA}
    unknown = {"CopyFrom", "MergeFrom", "ParseFromString", "MergeFromString", "update", "set"}
    return any(effect.place in whole and effect.how in unknown for effect in reading.effects)


def _returns_something_new(reading: FunctionReading) -> bool:
    """Say whether another session or metadata than the hook's arguments may be returned."""
    assigned = {node.id for node in reading.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in reading.nodes:
        if not isinstance(node, ast.Return) or node.value is None:
            continue
        if not isinstance(node.value, ast.Tuple):
            return True
        for part in node.value.elts[1:]:
            if not isinstance(part, ast.Name | ast.Dict | ast.Constant) or last_name(part) in assigned:
                return True
    return False


def missing_hooks(sources: Sources, shown: str) -> Iterator[Finding]:
    """Yield what the manifest lists and no file defines; a file that cannot be read may define anything."""
    if sources.unreadable:
        return
    written = {name for file in sources.files for name in _top_names(file)}
    for entry in sources.manifest.hooks:
        if entry.name not in written:
            message = f"{entry.name} ({entry.hook_type}) is in the manifest, but no file defines it"
            yield Finding(f"{shown}/{MANIFEST_NAME}", 0, 0, "hook-missing", message)


def _top_names(file: SourceFile) -> Iterator[str]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _not_decorated(hook: SourceHook, file: SourceFile) -> Iterator[Finding]:
    if not hook.decorator:
        wanted = hook.listed[0].hook_type
        message = f"{hook.function.name} is in the manifest, but has no decorator; write @{wanted} (or @Hook) above it"
        yield at(file.name, hook.function, "hook-undecorated", message)


def _arguments_that_fit_no_shape(hook: SourceHook, file: SourceFile) -> Iterator[Finding]:
    arguments = hook.function.args
    most = len(hook.parameters)
    fewest = most - len(arguments.defaults)
    allowed = {2} if hook.types == {_EVENT} else {3, 4, 5, 2} if not hook.types else {3, 4, 5}
    if allowed.isdisjoint({most, fewest}):
        wanted = "(event, spec)" if hook.types == {_EVENT} else "(request, session, spec)"
        message = f"{hook.function.name} fits no hook with {most} argument{'s' * (most != 1)}; write {wanted}"
        yield at(file.name, hook.function, "hook-arguments", message)
    elif hook.types == {_RESPONSE} and most in (3, 4):
        message = f"{hook.function.name} gets no response; write (request, response, session, metadata, spec)"
        yield at(file.name, hook.function, "hook-arguments", message)
