"""Find state that outlives a call: each worker process has its own, and threads of one worker share it without a lock.

That is: module-level objects that functions change, objects of the bundle's own classes that their methods change,
attributes of classes, functions and modules, closures, caches, and default arguments. Only the bundle's syntax is read;
state inside libraries is not seen.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tykpy.commands.lint.findings import Finding, at
from tykpy.commands.lint.sources import SourceFile
from tykpy.commands.lint.syntax import Function, dotted_name, imported_names, last_name, positional, top_statements

_RULE: Final = "shared-state"
_MUTABLE: Final = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
_MUTABLE_CALLS: Final = frozenset(
    {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"}
)
_CHANGING: Final = frozenset(
    {"add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft",
     "remove", "setdefault", "update"}
)  # fmt: skip
_CACHES: Final = frozenset({"cache", "cached", "lru_cache"})
_TYK_CACHES: Final = frozenset({"tyk.cache", "tyk.caching.cache"})
"""tykpy's own, which takes a time to live, and the store if it is told to."""
_CACHE_OF: Final = "cache of "
_LIFESPAN: Final = frozenset({"tyk.decorators.on_start", "tyk.decorators.on_stop"})
"""Functions with these decorators set up what each worker is meant to have."""
_ITERATORS: Final = frozenset({"count", "cycle", "iter"})
_SETS_UP: Final = frozenset({"__init__", "__new__", "__post_init__", "__set_name__"})
"""Methods that run while an object is created, which is at import for a module-level object."""


def shared_state(file: SourceFile, shared_classes: frozenset[str]) -> Iterator[Finding]:
    """Yield what functions of the file change and the next call sees.

    `shared_classes`: the bundle's classes with module-level objects; see `classes_with_shared_objects`.
    """
    reader = _Reader(_Module.of(file), imported_names(file.tree), shared_classes)
    reader.visit(file.tree)
    for node, name in reader.found:
        instead = "use tyk.cache(ttl=..., shared=True)" if name.startswith(_CACHE_OF) else "keep it in tyk.store"
        message = (
            f"every worker process has a {name} of its own, and threads of one share it without the embedded "
            f"driver's lock; {instead}"
        )
        yield at(file.name, node, _RULE, message)


def classes_with_shared_objects(files: Iterable[SourceFile]) -> frozenset[str]:
    """Return the names of the classes that some module instantiates at import."""
    return frozenset(
        last_name(node.func)
        for file in files
        for statement in top_statements(file.tree)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None
        for node in ast.walk(statement.value)
        if isinstance(node, ast.Call)
    )


@dataclass(slots=True)
class _Module:
    """The names that a file binds at module level."""

    names: set[str] = field(default_factory=set)
    """All of them; the other sets are subsets."""
    mutable: set[str] = field(default_factory=set)
    iterators: set[str] = field(default_factory=set)
    hooks: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, file: SourceFile) -> "_Module":
        module = cls(hooks={hook.function.name for hook in file.hooks})
        for statement in top_statements(file.tree):
            module._bind(statement)
        return module

    def _bind(self, statement: ast.stmt) -> None:
        if isinstance(statement, Function | ast.ClassDef):
            self.names.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            self.names |= {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
            self.names |= names
            if _is_mutable(statement.value):
                self.mutable |= names
            if isinstance(statement.value, ast.Call) and last_name(statement.value.func) in _ITERATORS:
                self.iterators |= names


@dataclass(slots=True)
class _Scope:
    """One function that is being read."""

    function: Function | ast.Lambda
    locals: set[str]
    owner: ast.ClassDef | None
    """Its class, if it is a method."""

    @property
    def name(self) -> str:
        return getattr(self.function, "name", "")

    @property
    def receiver(self) -> str:
        """The name of its `self` or `cls`."""
        arguments = positional(self.function)
        return arguments[0].arg if self.owner is not None and arguments else ""

    @property
    def mutable_defaults(self) -> set[str]:
        arguments = self.function.args
        with_default = positional(self.function)[-len(arguments.defaults) :] if arguments.defaults else []
        pairs = [*zip(with_default, arguments.defaults, strict=True)]
        pairs += [(arg, value) for arg, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
        return {argument.arg for argument, value in pairs if _is_mutable(value)}


class _Reader(ast.NodeVisitor):
    """Walks one file and collects the changes that outlive a call."""

    def __init__(self, module: _Module, names: Mapping[str, str], shared_classes: frozenset[str]) -> None:
        self.found: list[tuple[ast.AST, str]] = []
        self._module = module
        self._names = names
        self._shared_classes = shared_classes
        self._scopes: list[_Scope] = []
        self._method_of: ast.ClassDef | None = None

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before, self._method_of = self._method_of, node
        self.generic_visit(node)
        self._method_of = before

    def visit_FunctionDef(self, node: Function) -> None:
        for decorator in node.decorator_list:
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            if dotted_name(function, self._names) in _LIFESPAN:
                return
            is_cache = last_name(function) in _CACHES and dotted_name(function, self._names) not in _TYK_CACHES
            if is_cache and not self._scopes:
                self.found.append((decorator, f"{_CACHE_OF}{node.name}"))
        self._enter(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 (the name that ast looks for)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._enter(node)

    def _enter(self, node: Function | ast.Lambda) -> None:
        owner, self._method_of = self._method_of, None
        self._scopes.append(_Scope(node, _local_names(node), owner))
        self.generic_visit(node)
        self._scopes.pop()
        self._method_of = owner

    def visit_Global(self, node: ast.Global) -> None:
        self.found += [(node, name) for name in node.names]

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        if len(self._scopes) > 1 and self._outlives_its_call(self._scopes[-2], self._scopes[-1]):
            self.found += [(node, name) for name in node.names]

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store | ast.Del):
            self._changed(node, node.value, node.attr)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store | ast.Del):
            self._changed(node, node.value, None)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _CHANGING:
            self._changed(node, function.value, None)
        elif last_name(function) in ("setattr", "delattr") and node.args:
            self._changed(node, node.args[0], "")
        elif isinstance(function, ast.Name) and function.id == "next":
            iterators = (one.id for one in node.args[:1] if isinstance(one, ast.Name))
            self.found += [(node, name) for name in iterators if self._is_global(name, self._module.iterators)]
        self.generic_visit(node)

    def _changed(self, node: ast.AST, target: ast.expr, attribute: str | None) -> None:
        """Note one change: of an attribute of `target`, or (None) of what `target` contains."""
        if not self._scopes:
            return  # at import, which is the same in every worker
        root, path = _path(target)
        if root is None:
            return
        whole = path if attribute is None else [*path, attribute]
        if self._outlives(root, path, attribute):
            scope = self._scopes[-1]
            shown = scope.owner.name if scope.owner is not None and root == scope.receiver else root
            self.found.append((node, ".".join(filter(None, [shown, *whole]))))

    def _outlives(self, root: str, path: list[str], attribute: str | None) -> bool:
        scope = self._scopes[-1]
        if root == scope.receiver and scope.owner is not None:
            return self._receiver_outlives(scope, scope.owner, path, attribute)
        if root in scope.locals:
            return attribute is None and not path and root in scope.mutable_defaults
        for at_depth in range(len(self._scopes) - 2, -1, -1):
            if root in self._scopes[at_depth].locals:
                return self._outlives_its_call(self._scopes[at_depth], self._scopes[at_depth + 1])
        if root not in self._module.names:
            return False
        return attribute is not None or bool(path) or root in self._module.mutable

    def _receiver_outlives(self, scope: _Scope, owner: ast.ClassDef, path: list[str], attribute: str | None) -> bool:
        decorators = {last_name(one) for one in getattr(scope.function, "decorator_list", [])}
        if "classmethod" in decorators or path[:1] == ["__class__"]:
            return True
        if attribute is None and path and path[0] in _mutable_class_attributes(owner):
            return True
        return owner.name in self._shared_classes and scope.name not in _SETS_UP

    def _outlives_its_call(self, outer: _Scope, inner: _Scope) -> bool:
        """Return whether an inner function is returned, and so keeps the call's variables; hooks return to tykpy."""
        if outer.name in self._module.hooks or outer.owner is not None:
            return False
        returned = (node.value for node in ast.walk(outer.function) if isinstance(node, ast.Return))
        return any(value is inner.function or (value and last_name(value) == inner.name) for value in returned)

    def _is_global(self, name: str, among: set[str]) -> bool:
        return bool(self._scopes) and name in among and all(name not in scope.locals for scope in self._scopes)


def _is_mutable(value: ast.expr | None) -> bool:
    return isinstance(value, _MUTABLE) or (isinstance(value, ast.Call) and last_name(value.func) in _MUTABLE_CALLS)


def _mutable_class_attributes(owner: ast.ClassDef) -> set[str]:
    return {
        target.id
        for statement in owner.body
        if isinstance(statement, ast.Assign | ast.AnnAssign) and _is_mutable(statement.value)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name)
    }


def _local_names(function: Function | ast.Lambda) -> set[str]:
    """Return the names that a function binds, without those of functions inside it."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = {argument.arg for argument in named if argument is not None}
    declared: set[str] = set()
    waiting: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Global | ast.Nonlocal):
            declared.update(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        if not isinstance(node, ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return names - declared


def _path(node: ast.expr) -> tuple[str | None, list[str]]:
    """Return the name that starts `name.a[0].b`, or None, and the attributes after it."""
    path: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else None), path
