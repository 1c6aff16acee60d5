"""Queries of Python syntax trees that several rules share."""

import ast
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def last_name(node: ast.expr) -> str:
    """Return `c` of `a.b.c` and of `c`; nothing for any other expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def positional(function: Function | ast.Lambda) -> list[ast.arg]:
    """Return a function's positional arguments."""
    return [*function.args.posonlyargs, *function.args.args]


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body, without those of functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def parameters(function: Function) -> Iterator[Parameter]:
    """Yield a function's parameters as `inspect.signature` would, with None for any default."""
    arguments = function.args
    named = positional(function)
    for index, argument in enumerate(named, len(arguments.defaults) - len(named)):
        yield Parameter(argument.arg, Parameter.POSITIONAL_OR_KEYWORD, default=None if index >= 0 else Parameter.empty)
    if arguments.vararg is not None:
        yield Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield Parameter(argument.arg, Parameter.KEYWORD_ONLY, default=Parameter.empty if default is None else None)


def top_statements(tree: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, including those inside `if`, `try`, `with` and loops."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        statement = waiting.pop()
        yield statement
        waiting.extend(reversed(list(_inner(statement))))


def _inner(statement: ast.stmt) -> Iterator[ast.stmt]:
    if isinstance(statement, ast.If | ast.With | ast.Try | ast.TryStar | ast.For | ast.While):
        for name in ("body", "orelse", "finalbody"):
            yield from getattr(statement, name, [])
        for handler in getattr(statement, "handlers", []):
            yield from handler.body


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Return the full names of imported objects, by the names that the file has for them."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted_name(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return the full name, such as `urllib.request.urlopen`, or "" for what is not imported."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    return ".".join([names[node.id], *parts])
