"""The rules of lint: what a hook does that the gateway ignores, and what keeps a hook from running at all."""

import ast
from collections.abc import Callable, Iterator
from typing import Final

from tykpy.bundles.arguments import shape_for
from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.bundles.shapes import MetadataShape, RequestShape, ResponseShape, Shape
from tykpy.commands.lint.blocking import blocking_calls
from tykpy.commands.lint.effects import METADATA, ROLES, Effect, FunctionReading, Place, read_function
from tykpy.commands.lint.findings import Finding, at, in_characters, is_allowed, read_ignores
from tykpy.commands.lint.returns import return_findings
from tykpy.commands.lint.sources import SourceFile, SourceHook, Sources
from tykpy.commands.lint.state import classes_with_shared_objects, shared_state
from tykpy.commands.lint.syntax import last_name, parameters
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
_URL: Final[Place] = ("request", "object", "url")
_SET_HEADERS: Final[Place] = ("request", "object", "set_headers")
_REAL_BODY: Final[dict[Place, Place]] = {
    ("request", "object", "body"): ("request", "object", "raw_body"),
    ("response", "body"): ("response", "raw_body"),
}
"""A hook that sets both bodies keeps them alike."""


FileRules = Callable[[SourceFile, frozenset[str]], Iterator[Finding]]
"""Finds what is wrong in one file; the names are of the bundle's classes whose instances share objects."""


def findings_of(sources: Sources, shown: str, rules: FileRules) -> list[Finding]:
    """Return what is wrong with a bundle, and what `rules` find in its files, by file and line."""
    found = [*sources.missing, *sources.unreadable, *sources.unloadable, *missing_hooks(sources, shown)]
    shared = classes_with_shared_objects(sources.files)
    for file in sources.files:
        found += _findings_in(file, rules, shared)
    return sorted(set(found))


def _findings_in(file: SourceFile, rules: FileRules, shared_classes: frozenset[str]) -> Iterator[Finding]:
    lines, ignores = file.text.split("\n"), read_ignores(file.text)
    try:
        for finding in rules(file, shared_classes):
            if not is_allowed(finding, ignores):
                yield in_characters(finding, lines)
    except RecursionError:
        yield Finding(file.name, 0, 0, "nesting", "is nested too deeply to be looked at")
    else:
        if rules is lint_rules and not file.is_vendored:
            for ignore in ignores.values():
                yield from ignore.mistakes(file.name)


def lint_rules(file: SourceFile, shared_classes: frozenset[str]) -> Iterator[Finding]:
    """Yield what `tykpy lint` finds in a file; files of others, vendored, are left alone."""
    if not file.is_vendored:
        yield from in_any_bundle(file, shared_classes)
        yield from _ignored_in(file)
        for hook in (one for one in file.hooks if one.is_unlisted):
            message = f"{hook.function.name} is not in the manifest: the gateway never calls it"
            yield at(file.name, hook.function, "hook-unlisted", message)


def in_any_bundle(file: SourceFile, shared_classes: frozenset[str]) -> Iterator[Finding]:
    """Yield findings that apply to bundles for embedded Python and for tykpy alike."""
    yield from hooks_that_cannot_run(file)
    for hook in file.inner_hooks:
        yield from _refused_arguments(hook, file)
    for hook in file.hooks:
        yield from _useless_arguments(hook, file)
        yield from return_findings(hook, file)
        if hook.types == {_AUTH} and not _may_leave_a_token(read_function(hook.function, file)):
            yield at(file.name, hook.function, ignored_changes.NO_TOKEN.rule, ignored_changes.NO_TOKEN)
    yield from shared_state(file, shared_classes)
    yield from blocking_calls(file)


def hooks_that_cannot_run(file: SourceFile) -> Iterator[Finding]:
    """Yield what keeps the file's hooks from being loaded."""
    for hook in file.hooks:
        if not hook.decorator:
            wanted = hook.listed[0].hook_type
            problem = f"is in the manifest, but has no decorator; write @{wanted} (or @Hook) above it"
            yield at(file.name, hook.function, "hook-undecorated", f"{hook.function.name} {problem}")
        yield from _refused_arguments(hook, file)


def missing_hooks(sources: Sources, shown: str) -> Iterator[Finding]:
    """Yield what the manifest lists and no file defines; a file that cannot be read may define anything."""
    if sources.unreadable or sources.missing:
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


def _refused_arguments(hook: SourceHook, file: SourceFile) -> Iterator[Finding]:
    """Yield why a worker refuses a hook for its arguments."""
    try:
        _shape_of(hook)
    except ValueError as error:
        yield at(file.name, hook.function, "hook-arguments", f"{hook.function.name} {error}")


def _useless_arguments(hook: SourceHook, file: SourceFile) -> Iterator[Finding]:
    """Yield where a hook runs, but without the arguments that it is written for."""
    try:
        takes_response = isinstance(_shape_of(hook), ResponseShape)
    except ValueError:
        return
    problem = ""
    if hook.types == {_RESPONSE} and not takes_response:
        problem = f"gets no response; write ({ResponseShape.signature})"
    elif takes_response and hook.types and _RESPONSE not in hook.types:
        wanted = MetadataShape if hook.types == {_AUTH} else RequestShape
        problem = f"gets an empty response, and nothing that it returns counts; write ({wanted.signature})"
    if problem:
        yield at(file.name, hook.function, "hook-arguments", f"{hook.function.name} {problem}")


def _shape_of(hook: SourceHook) -> Shape:
    """Return the shape that a worker gives a hook. Raises ValueError, as the worker does, where it refuses it."""
    roles = (True,) if hook.types == {_EVENT} else (False,) if hook.types or hook.listed else (False, True)
    return shape_for(list(parameters(hook.function))[hook.is_bound :], roles)


def _ignored_in(file: SourceFile) -> Iterator[Finding]:
    """Yield the changes of the file's hooks that the gateway ignores."""
    for hook in file.hooks:
        reading = read_function(hook.function, file)
        changed = {effect.place: effect for effect in reading.effects}
        for effect in reading.effects:
            found = _ignored(effect, hook, changed) or _ignored_response(effect, hook, reading)
            if found is not None:
                yield at(file.name, effect.node, found.rule, found)
        for call in _new_responses_without_status(hook, reading):
            found = ignored_changes.RESPONSE_STATUS
            yield at(file.name, call, found.rule, found)


def _ignored(effect: Effect, hook: SourceHook, changed: dict[Place, Effect]) -> Ignored | None:
    """Return why the gateway ignores a change of the request or the session."""
    place, value = effect.place, effect.value
    if place in _WITHOUT_EFFECT:
        return None if _REAL_BODY.get(place) in changed else _WITHOUT_EFFECT[place]
    if place[0] == "session":
        is_read = _EVENT in hook.types or _AUTH in hook.types or not hook.types or len(hook.parameters) not in ROLES
        return None if is_read else ignored_changes.SESSION
    if hook.types == {_RESPONSE}:
        return ignored_changes.RESPONSE_REQUEST if place[0] == "request" else None
    if place == _URL and value is not None:
        if isinstance(value, ast.Constant) and value.value == "":
            return ignored_changes.URL_EMPTY
        return ignored_changes.URL_QUERY if _writes_query(value) else None
    if place == _CODE and isinstance(value, ast.Constant):
        code = value.value
        is_wrong = isinstance(code, int) and (0 < code < MIN_CODE or code > MAX_CODE)
        return ignored_changes.OVERRIDE_CODE if is_wrong else None
    return ignored_changes.HOST if _header_set(effect).lower() == "host" else None


def _header_set(effect: Effect) -> str:
    """Return the name of the request header that a change sets; "" if none or unknown."""
    if effect.place == _SET_HEADERS and effect.key is not None:
        return effect.key
    name = effect.arguments[0] if effect.how == "add_header" and effect.arguments else None
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""


def _writes_query(value: ast.expr) -> bool:
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "?" in node.value:
            return True
        if isinstance(node, ast.Name | ast.Attribute) and last_name(node) == "urlencode":
            return True
    return False


def _ignored_response(effect: Effect, hook: SourceHook, reading: FunctionReading) -> Ignored | None:
    """Return why the gateway ignores a change of the response.

    Headers added to the lists alone are kept as long as nothing changes the map of first values.
    """
    if _RESPONSE not in hook.types or len(hook.parameters) not in ROLES:
        return None
    if effect.place == ("response", "status_code"):
        is_zero = isinstance(effect.value, ast.Constant) and effect.value.value == 0
        return ignored_changes.RESPONSE_STATUS if is_zero else None
    if effect.place == ("response", "multivalue_headers") and effect.how in ("add", "append", "extend"):
        keys = {other.key for other in reading.effects if other.place == ("response", "headers")}
        return ignored_changes.RESPONSE_HEADERS if keys and _header_key(effect) not in keys else None
    return None


def _new_responses_without_status(hook: SourceHook, reading: FunctionReading) -> Iterator[ast.Call]:
    if _RESPONSE not in hook.types or len(hook.parameters) not in ROLES:
        return
    if any(isinstance(node, ast.Attribute) and node.attr == "status_code" for node in reading.nodes):
        return
    for node in reading.nodes:
        if isinstance(node, ast.Call) and last_name(node.func) in _NEW_RESPONSES:
            given = {keyword.arg for keyword in node.keywords}  # None: **something
            if given.isdisjoint({"status_code", None}):
                yield node


def _header_key(effect: Effect) -> str | None:
    if not isinstance(effect.node, ast.Call):
        return None
    for call in ast.walk(effect.node):
        for keyword in call.keywords if isinstance(call, ast.Call) else []:
            if keyword.arg == "key" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    return None


def _may_leave_a_token(reading: FunctionReading) -> bool:
    """Return whether "token" appears anywhere, or the session goes to, or comes from, unknown code."""
    whole = {("session",), METADATA}
    if any(isinstance(node, ast.Constant) and node.value == "token" for node in reading.nodes):
        return True
    if reading.handed_on & whole or _returns_something_new(reading):
        return True
    unknown = {"CopyFrom", "MergeFrom", "ParseFromString", "MergeFromString", "update", "set"}
    return any(effect.place in whole and effect.how in unknown for effect in reading.effects)


def _returns_something_new(reading: FunctionReading) -> bool:
    """Return whether another session or metadata than the hook's arguments may be returned."""
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
