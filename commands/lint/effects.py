"""Find out which parts of its arguments a function changes, from its syntax tree.

A *place* is a path from an argument, such as `("request", "object", "headers")`. Names assigned to places are followed,
and so are calls to functions of the same file; nothing is guessed.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tykpy.commands.lint.sources import SourceFile
from tykpy.commands.lint.syntax import Function, positional

Place: TypeAlias = tuple[str, ...]
METADATA: Final[Place] = ("session", "metadata")

ROLES: Final[Mapping[int, tuple[Place | None, ...]]] = {
    3: (("request",), ("session",), None),
    4: (("request",), ("session",), METADATA, None),
    5: (("request",), ("response",), ("session",), METADATA, None),
}
"""The places of a hook's arguments, by their number; None: changing it has no effect."""

_CHANGING: Final = frozenset(
    {
        "add", "append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update",
        "Clear", "ClearField", "CopyFrom", "MergeFrom", "MergeFromString", "ParseFromString",
        "add_header", "delete_header", "add_param", "delete_param",
    }
)  # fmt: skip
"""Methods of maps, lists, messages and the request that change their object."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One change: of the attribute at `place`, of an item in it (`key`), or by one of its methods."""

    node: ast.AST
    place: Place
    how: str
    """"set", "item", "delete", or a method's name."""
    value: ast.expr | None = None
    key: str | None = None
    arguments: tuple[ast.expr, ...] = ()


@dataclass(slots=True)
class FunctionReading:
    """What one function and those that it calls do."""

    effects: list[Effect] = field(default_factory=list)
    handed_on: set[Place] = field(default_factory=set)
    """Places passed to functions that were not followed."""
    nodes: list[ast.AST] = field(default_factory=list)
    """Every node that was read."""


def read_function(function: Function, file: SourceFile) -> FunctionReading:
    """Read a hook; nothing is known of one whose number of arguments fits no shape."""
    arguments = positional(function)
    roles = ROLES.get(len(arguments), ())
    places = {argument.arg: place for argument, place in zip(arguments, roles, strict=False) if place is not None}
    reading = FunctionReading()
    _Reader(reading, file.functions, places, frozenset({function.name})).read(function)
    return reading


class _Reader(ast.NodeVisitor):
    """Reads one function's statements in order."""

    def __init__(
        self,
        reading: FunctionReading,
        functions: Mapping[str, Function],
        places: dict[str, Place],
        entered: frozenset[str],
    ) -> None:
        self._reading = reading
        self._functions = functions
        self._places = places
        self._values: dict[str, ast.expr] = {}
        self._entered = entered

    def read(self, function: Function) -> None:
        for statement in function.body:
            self._reading.nodes.extend(ast.walk(statement))
            self.visit(statement)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign | ast.AugAssign | ast.NamedExpr) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._assign(node.target, node.value)

    visit_AugAssign = visit_NamedExpr = visit_AnnAssign  # noqa: N815 (the names that ast looks for)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                self._note(target, self._place(target.value), "delete", key=_text(target.slice))

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _CHANGING:
            self._note(node, self._place(function.value), function.attr, arguments=tuple(_arguments(node)))
        called = self._functions.get(function.id) if isinstance(function, ast.Name) else None
        if called is not None and called.name not in self._entered:
            self._enter(called, node)
        else:
            self._reading.handed_on.update(filter(None, map(self._place, _arguments(node))))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            values = value.elts if isinstance(value, ast.Tuple | ast.List) else [value] * len(target.elts)
            for inner, part in zip(target.elts, values, strict=False):
                self._assign(inner, part)
        elif isinstance(target, ast.Name):
            self._name(target.id, value)
        elif isinstance(target, ast.Attribute):
            self._note(target, self._place(target), "set", self._known(value))
        elif isinstance(target, ast.Subscript):
            self._note(target, self._place(target.value), "item", self._known(value), _text(target.slice))

    def _name(self, name: str, value: ast.expr) -> None:
        place = self._place(value)
        self._values[name] = value
        if place is not None:
            self._places[name] = place
        else:
            self._places.pop(name, None)

    def _enter(self, called: Function, call: ast.Call) -> None:
        """Continue in a function of the same file, with its arguments bound to the places that it is called with."""
        names = [argument.arg for argument in positional(called)]
        bound = dict(zip(names, call.args, strict=False))
        bound |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
        places = {name: place for name, value in bound.items() if (place := self._place(value)) is not None}
        if places:
            _Reader(self._reading, self._functions, places, self._entered | {called.name}).read(called)

    def _place(self, node: ast.expr) -> Place | None:
        if isinstance(node, ast.Name):
            return self._places.get(node.id)
        if not isinstance(node, ast.Attribute | ast.Subscript):
            return None
        base = self._place(node.value)
        return None if base is None else (*base, node.attr if isinstance(node, ast.Attribute) else "[]")

    def _known(self, value: ast.expr) -> ast.expr:
        """Replace a name by the value that it was assigned last."""
        return self._values.get(value.id, value) if isinstance(value, ast.Name) else value

    def _note(
        self,
        node: ast.AST,
        place: Place | None,
        how: str,
        value: ast.expr | None = None,
        key: str | None = None,
        arguments: tuple[ast.expr, ...] = (),
    ) -> None:
        if place is not None:
            self._reading.effects.append(Effect(node, place, how, value, key, arguments))


def _arguments(call: ast.Call) -> Iterator[ast.expr]:
    yield from call.args
    yield from (keyword.value for keyword in call.keywords)


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
