"""Queries of Python syntax trees that several rules share."""

import ast
from collections.abc import Iterator
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


def top_statements(tree: ast.Module) -> Iterator[ast.stmt]:
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
