"""Find hooks that return nothing, too few values, values in the wrong order, or values that are ignored.

Source: tyk/middleware.py in Tyk's embedded driver, which unpacks two or three values and ignores what a hook of five
arguments returns.
"""

import ast
from collections.abc import Iterable, Iterator
from typing import Final

from tykpy.commands.lint.findings import Finding, at
from tykpy.commands.lint.sources import SourceFile, SourceHook
from tykpy.commands.lint.syntax import own_nodes
from tykpy.telemetry.records import counted

_RETURNED: Final = {3: 2, 4: 3}
"""How many of its arguments a hook returns, by the number that it takes."""
_RESPONSE_ARGUMENTS: Final = 5
_ENDS_THE_PROCESS: Final = frozenset({"exit", "_exit", "abort", "quit"})


def return_findings(hook: SourceHook, file: SourceFile) -> Iterator[Finding]:
    """Yield what is wrong with the values that a request or response hook returns."""
    parameters = hook.parameters
    if not hook.types.isdisjoint({"Event"}) or (hook.types == {"Response"} and len(parameters) != _RESPONSE_ARGUMENTS):
        return  # it cannot run, or its result does not matter
    own = list(own_nodes(hook.function))
    returns = [node for node in own if isinstance(node, ast.Return)]
    if len(parameters) == _RESPONSE_ARGUMENTS:
        yield from _ignored_values(returns, parameters, file)
    if len(parameters) not in _RETURNED or any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own):
        return
    expected = parameters[: _RETURNED[len(parameters)]]
    wanted = f"write return {', '.join(expected)}"
    for node in returns:
        problem = _problem(node.value, expected, parameters)
        if problem:
            rule = "missing-return" if node.value is None else "return-value"
            yield at(file.name, node, rule, f"{hook.function.name} {problem}; {wanted}")
    if _falls_through(hook.function.body):
        how = "on some paths only" if returns else "nothing"
        yield at(file.name, hook.function, "missing-return", f"{hook.function.name} returns {how}; {wanted}")


def _ignored_values(returns: Iterable[ast.Return], parameters: list[str], file: SourceFile) -> Iterator[Finding]:
    _, response, *_ = parameters
    others = {*parameters} - {response}
    for node in returns:
        if node.value is not None and _is_no_response(node.value, others, response):
            message = (
                "of a hook of five arguments only a returned response counts, and what it changed in place; "
                f"write return {response}"
            )
            yield at(file.name, node, "return-value", message)


def _is_no_response(value: ast.expr, others: set[str], response: str) -> bool:
    if isinstance(value, ast.Name):
        return value.id in others
    if isinstance(value, ast.Attribute):
        return isinstance(value.value, ast.Name) and value.value.id in {*others, response}
    if isinstance(value, ast.Constant):
        return value.value is not None
    return isinstance(value, ast.Tuple | ast.List | ast.Dict)


def _problem(value: ast.expr | None, expected: list[str], parameters: list[str]) -> str:
    if value is None or (isinstance(value, ast.Constant) and value.value is None):
        return "returns nothing here"
    if isinstance(value, ast.Name):
        return f"returns {value.id} alone" if value.id in parameters else ""
    if not isinstance(value, ast.Tuple):
        return ""
    names = [part.id if isinstance(part, ast.Name) else "" for part in value.elts]
    if any(isinstance(part, ast.Starred) for part in value.elts):
        return ""
    if len(names) != len(expected):
        return f"returns {counted(len(names), 'value')}"
    swapped = any(name != right and name in parameters for name, right in zip(names, expected, strict=True))
    return f"returns {', '.join(name or '...' for name in names)}, which is not their order" if swapped else ""


def _falls_through(body: list[ast.stmt]) -> bool:
    """Return whether the end of these statements can be reached; in doubt it can."""
    return all(map(_passes, body))


def _passes(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break):
        return False
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        return getattr(function, "attr", getattr(function, "id", "")) not in _ENDS_THE_PROCESS
    if isinstance(statement, ast.If):
        return _falls_through(statement.body) or _falls_through(statement.orelse)
    if isinstance(statement, ast.While) and isinstance(statement.test, ast.Constant) and statement.test.value:
        return any(isinstance(node, ast.Break) for node in ast.walk(statement))
    if isinstance(statement, ast.With | ast.AsyncWith):
        return _falls_through(statement.body)
    if isinstance(statement, ast.Try | ast.TryStar):
        after = _falls_through([*statement.body, *statement.orelse])
        caught = any(_falls_through(handler.body) for handler in statement.handlers)
        return (after or caught) and _falls_through(statement.finalbody)
    if isinstance(statement, ast.Match):
        catches_all = any(_is_irrefutable(case) for case in statement.cases)
        return not catches_all or any(_falls_through(case.body) for case in statement.cases)
    return True


def _is_irrefutable(case: ast.match_case) -> bool:
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None
