"""Find what an embedded-Python bundle will do differently in tykpy's workers; the facts are in docs/bundles.md.

The embedded driver runs everything in one process, on one interpreter, under one lock; tykpy runs it in several
processes, on the Python that it was installed for.
"""

import ast
from collections.abc import Iterator
from typing import Final

from tykpy.commands.lint.effects import ROLES
from tykpy.commands.lint.findings import Finding, at
from tykpy.commands.lint.rules import in_any_bundle
from tykpy.commands.lint.sources import SourceFile, SourceHook
from tykpy.commands.lint.syntax import last_name, top_statements

_REMOVED: Final = {
    **dict.fromkeys(("asynchat", "asyncore", "distutils", "imp", "smtpd"), "3.12"),
    **dict.fromkeys(
        ("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "lib2to3", "mailcap", "msilib", "nis",
         "nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib"),
        "3.13",
    ),
}  # fmt: skip
"""Standard modules that were removed, and in which version; tykpy runs on 3.11 to 3.13."""
_INSTEAD: Final = {"imp": "importlib", "distutils": "setuptools", "asyncore": "asyncio", "asynchat": "asyncio"}
_LOCKS: Final = frozenset({"Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"})
_THREADS: Final = frozenset({"Thread", "Timer", "ThreadPoolExecutor"})
_RESPONSE_ARGUMENTS: Final = 5


def difference_rules(file: SourceFile, shared_classes: frozenset[str]) -> Iterator[Finding]:
    """Yield what will be different in a file."""
    yield from _imports(file)
    if file.is_vendored:
        return
    yield from in_any_bundle(file, shared_classes)
    for hook in file.hooks:
        yield from _runs_now(hook, file)
        yield from _returned_objects(hook, file)
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
        is_tuple = isinstance(node.value, ast.Tuple)
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        if is_tuple == (len(hook.parameters) == _RESPONSE_ARGUMENTS):
            continue  # counts for nothing here either; commands.lint.returns says so
        if not all(isinstance(part, ast.Name) and part.id in hook.parameters for part in parts):
            message = "embedded Python ignored objects returned in place of the hook's arguments; now they count"
            yield at(file.name, node, "returned-object", message)


def _started_at_import(file: SourceFile) -> Iterator[Finding]:
    for statement in top_statements(file.tree):
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr):
            continue
        for node in ast.walk(statement):
            name = last_name(node.func) if isinstance(node, ast.Call) else ""
            if name in _LOCKS:
                yield at(
                    file.name, node, "lock", f"this {name} holds within one worker process only, not for all hooks"
                )
            elif name in _THREADS:
                yield at(file.name, node, "thread", f"this {name} exists once in every worker process, not once")


def _triggered_events(file: SourceFile) -> Iterator[Finding]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and last_name(node.func) == "trigger_event":
            message = "does not reach the gateway's own event handlers; it goes to @Event hooks and the broker's sinks"
            yield at(file.name, node, "trigger-event", message)
