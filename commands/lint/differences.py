"""What an embedded-Python bundle will do differently in tykpy's workers; the facts are in docs/bundles.md.

The embedded driver runs everything in one process, on one interpreter, under one lock; tykpy runs it in several
processes, on the Python that it was installed for.
"""

import ast
from collections.abc import Iterator
from typing import Final

from commands.lint.effects import ROLES
from commands.lint.findings import Finding, at, without_pardoned
from commands.lint.rules import hooks_that_cannot_run, missing_hooks
from commands.lint.sources import SourceFile, SourceHook, Sources, top_statements

_REMOVED: Final = {
    **dict.fromkeys(("asynchat", "asyncore", "distutils", "imp", "smtpd"), "3.12"),
    **dict.fromkeys(
        ("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "lib2to3", "mailcap", "msilib", "nis",
         "nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib"),
        "3.13",
    ),
}  # fmt: skip
"""Modules that Python's later versions do not have; tykpy runs on 3.11 to 3.14."""
_INSTEAD: Final = {"imp": "importlib", "distutils": "setuptools", "asyncore": "asyncio", "asynchat": "asyncio"}
_MUTABLE: Final = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
_MUTABLE_CALLS: Final = frozenset(
    {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"}
)
_CHANGING: Final = frozenset(
    {"add", "append", "appendleft", "clear", "extend", "insert", "pop", "popitem", "popleft", "remove", "setdefault",
     "update"}
)  # fmt: skip
_LOCKS: Final = frozenset({"Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"})
_THREADS: Final = frozenset({"Thread", "Timer", "ThreadPoolExecutor"})


def differences_of(sources: Sources, shown: str) -> list[Finding]:
    """Return what will be different, by file and line."""
    found = [*sources.unreadable, *missing_hooks(sources, shown)]
    for file in sources.files:
        found += without_pardoned(_in_file(file), file.name, file.text)
    return sorted(set(found))


def _in_file(file: SourceFile) -> Iterator[Finding]:
    yield from _imports(file)
    yield from hooks_that_cannot_run(file)
    for hook in file.hooks:
        yield from _runs_now(hook, file)
        yield from _returned_objects(hook, file)
    yield from _shared_state(file)
    yield from _started_at_import(file)
    yield from _triggered_events(file)


def _imports(file: SourceFile) -> Iterator[Finding]:
    for node in ast.walk(file.tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top in _REMOVED:
                advice = f"; use {_INSTEAD[top]}" if top in _INSTEAD else ""
                yield at(file.name, node, "removed-module", f"Python {_REMOVED[top]} has no module {top}{advice}")


def _runs_now(hook: SourceHook, file: SourceFile) -> Iterator[Finding]:
    name = hook.function.name
    if hook.types == {"Event"}:
        yield at(file.name, hook.function, "event", f"events never reached {name} in embedded Python; now it runs")
    if isinstance(hook.function, ast.AsyncFunctionDef):
        message = f"embedded Python never awaited {name}; now it runs, beside other hooks of its worker"
        yield at(file.name, hook.function, "async", message)


def _returned_objects(hook: SourceHook, file: SourceFile) -> Iterator[Finding]:
    if len(hook.parameters) not in ROLES:
        return
    for node in ast.walk(hook.function):
        if not isinstance(node, ast.Return) or node.value is None:
            continue
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        if not all(isinstance(part, ast.Name) and part.id in hook.parameters for part in parts):
            message = "embedded Python ignored objects returned in place of the hook's arguments; now they count"
            yield at(file.name, node, "returned-object", message)


def _shared_state(file: SourceFile) -> Iterator[Finding]:
    """Find globals that functions change: there was one of each, and a lock around everything."""
    shared = set(_mutable_globals(file))
    for function in ast.walk(file.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        own = _local_names(function)
        for node in ast.walk(function):
            for name in _changed_globals(node, shared - own):
                message = (
                    f"every worker process has a {name} of its own, and threads of one share it without the embedded "
                    "driver's lock; keep it in TykGateway.store_data/get_data"
                )
                yield at(file.name, node, "shared-state", message)


def _mutable_globals(file: SourceFile) -> Iterator[str]:
    for statement in top_statements(file.tree):
        value = getattr(statement, "value", None)
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        if isinstance(value, _MUTABLE) or (isinstance(value, ast.Call) and _last_name(value.func) in _MUTABLE_CALLS):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _local_names(function: ast.AST) -> set[str]:
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    arguments = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
    return stored | arguments


def _changed_globals(node: ast.AST, shared: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Global):
        yield from node.names
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        yield from _named(node.value, shared)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
        yield from _named(node.func.value, shared)


def _named(node: ast.expr, shared: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Name) and node.id in shared:
        yield node.id


def _started_at_import(file: SourceFile) -> Iterator[Finding]:
    for statement in top_statements(file.tree):
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr):
            continue
        for node in ast.walk(statement):
            name = _last_name(node.func) if isinstance(node, ast.Call) else ""
            if name in _LOCKS:
                yield at(
                    file.name, node, "lock", f"this {name} holds within one worker process only, not for all hooks"
                )
            elif name in _THREADS:
                yield at(file.name, node, "thread", f"this {name} exists once in every worker process, not once")


def _triggered_events(file: SourceFile) -> Iterator[Finding]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and _last_name(node.func) == "trigger_event":
            message = "does not reach the gateway's own event handlers; it goes to @Event hooks and the broker's sinks"
            yield at(file.name, node, "trigger-event", message)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
