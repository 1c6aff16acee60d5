"""Find calls in `async def` functions that block the event loop, and with it all other async hooks of the worker."""

import ast
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tyk.storage import Store
from tykpy.commands.lint.findings import Finding, at
from tykpy.commands.lint.sources import SourceFile
from tykpy.commands.lint.syntax import Function, dotted_name, imported_names, own_nodes

_CLIENT: Final = "an asynchronous client such as aiohttp or httpx.AsyncClient"
_PROCESS: Final = "await asyncio.create_subprocess_exec(...)"
_SHELL: Final = "await asyncio.create_subprocess_shell(...)"
_RESOLVE: Final = "await loop.getaddrinfo(...)"
_CLUSTER: Final = "redis.asyncio.RedisCluster"
_STORE: Final = tuple(name for name in vars(Store) if f"a{name}" in vars(Store))
"""Methods of `tyk.store` that have an awaitable form."""

_BLOCKING: Final[Mapping[str, str]] = {
    "time.sleep": "await asyncio.sleep(...)",
    "os.popen": _SHELL,
    "os.system": _SHELL,
    "subprocess.call": _PROCESS,
    "subprocess.check_call": _PROCESS,
    "subprocess.check_output": _PROCESS,
    "subprocess.getoutput": _SHELL,
    "subprocess.getstatusoutput": _SHELL,
    "subprocess.run": _PROCESS,
    "socket.create_connection": "await asyncio.open_connection(...)",
    "socket.getaddrinfo": _RESOLVE,
    "socket.gethostbyaddr": "await loop.getnameinfo(...)",
    "socket.gethostbyname": _RESOLVE,
    "socket.gethostbyname_ex": _RESOLVE,
    "socket.getnameinfo": "await loop.getnameinfo(...)",
    "urllib.request.urlopen": _CLIENT,
    "urllib.request.urlretrieve": _CLIENT,
    "urllib3.request": _CLIENT,
    **{
        f"{library}.{name}": _CLIENT
        for library in ("requests", "httpx")
        for name in ("delete", "get", "head", "options", "patch", "post", "put", "request", "stream")
    },
    **{f"{module}.store.{name}": f"await store.a{name}(...)" for module in ("tyk", "tyk.storage") for name in _STORE},
    **{
        f"{module}.TykGateway.{name}": f"await tyk.store.{instead}(...)"
        for module in ("gateway", "tyk.gateway")
        for name, instead in (("get_data", "aget"), ("store_data", "aset"))
    },
}
"""Functions that block, and what to write instead."""

_CLIENTS: Final[Mapping[str, str]] = {
    "boto3.client": "an asynchronous client such as aioboto3",
    "boto3.resource": "an asynchronous client such as aioboto3",
    "http.client.HTTPConnection": _CLIENT,
    "http.client.HTTPSConnection": _CLIENT,
    "httpx.Client": "httpx.AsyncClient",
    "mysql.connector.connect": "an asynchronous driver",
    "psycopg.connect": "psycopg.AsyncConnection",
    "psycopg2.connect": "an asynchronous driver such as asyncpg",
    "pymongo.MongoClient": "pymongo.AsyncMongoClient",
    "pymysql.connect": "an asynchronous driver such as aiomysql",
    "redis.Redis": "redis.asyncio.Redis",
    "redis.Redis.from_url": "redis.asyncio.Redis.from_url",
    "redis.RedisCluster": _CLUSTER,
    "redis.StrictRedis": "redis.asyncio.Redis",
    "redis.cluster.RedisCluster": _CLUSTER,
    "redis.from_url": "redis.asyncio.from_url",
    "requests.Session": _CLIENT,
    "requests.session": _CLIENT,
    "smtplib.SMTP": "an asynchronous client such as aiosmtplib",
    "smtplib.SMTP_SSL": "an asynchronous client such as aiosmtplib",
    "socket.socket": "await asyncio.open_connection(...)",
    "sqlite3.connect": "an asynchronous driver such as aiosqlite",
    "urllib3.PoolManager": _CLIENT,
}
"""Callables that return objects with blocking methods, and what to write instead."""

_CACHES: Final = frozenset({"tyk.cache", "tyk.caching.cache"})


class _Blocking(NamedTuple):
    """A call that blocks."""

    name: str
    instead: str
    line: int


class _Calls:
    """The blocking calls of one file, and the plain functions of the file that make them."""

    def __init__(self, file: SourceFile) -> None:
        self._names = imported_names(file.tree)
        self._clients = dict(_clients(file.tree, self._names))
        self._functions = file.functions
        self._inside: dict[str, _Blocking | None] = {}
        """What a function of the file is known to block in."""

    def blocking(self, call: ast.Call) -> _Blocking | None:
        """Return what a call blocks in, if it is known to."""
        name = dotted_name(call.func, self._names)
        instead = _BLOCKING.get(name) or _CLIENTS.get(name)
        if instead is None and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            instead = self._clients.get(call.func.value.id)
            name = f"{call.func.value.id}.{call.func.attr}"
        if instead is not None:
            return None if name == "socket.socket" else _Blocking(name, instead, call.lineno)
        return self._within(call.func.id) if isinstance(call.func, ast.Name) else None

    def _within(self, name: str) -> _Blocking | None:
        """Return what a plain function of the file blocks in."""
        function = self._functions.get(name)
        if not isinstance(function, ast.FunctionDef) or name in self._names:
            return None
        if name not in self._inside:
            self._inside[name] = None  # while it is being read: it may call itself
            self._inside[name] = self._shared_cache(function) or self._first_in(function)
        return self._inside[name]

    def _first_in(self, function: ast.FunctionDef) -> _Blocking | None:
        if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own_nodes(function)):
            return None  # a call runs none of it
        calls = sorted(_own_calls(function), key=lambda call: (call.lineno, call.col_offset))
        return next((found for call in calls if (found := self.blocking(call)) is not None), None)

    def _shared_cache(self, function: ast.FunctionDef) -> _Blocking | None:
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and dotted_name(decorator.func, self._names) in _CACHES:
                for option in decorator.keywords:
                    if option.arg == "shared" and isinstance(option.value, ast.Constant) and option.value.value:
                        instead = f"async def {function.name}"
                        return _Blocking("tyk.cache(shared=True)", instead, decorator.lineno)
        return None


def blocking_calls(file: SourceFile) -> Iterator[Finding]:
    """Yield the calls in `async def` functions that are known to block, also within plain functions of the file."""
    calls = _Calls(file)
    for function in ast.walk(file.tree):
        if isinstance(function, ast.AsyncFunctionDef):
            for call in _own_calls(function):
                found = calls.blocking(call)
                if found is not None:
                    where = "" if found.line == call.lineno else f" in line {found.line}"
                    what = "blocks the event loop of all async hooks of this worker"
                    message = f"{found.name}{where} {what}; use {found.instead}, or a plain def"
                    yield at(file.name, call, "blocking-call", message)


def _clients(tree: ast.AST, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            instead = _CLIENTS.get(dotted_name(node.value.func, names))
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (
                (target.id, instead) for target in targets if isinstance(target, ast.Name) and instead is not None
            )


def _own_calls(function: Function) -> list[ast.Call]:
    """Return the calls of the function itself that are not awaited; functions inside it may run elsewhere."""
    nodes = list(own_nodes(function))
    awaited = {id(node.value) for node in nodes if isinstance(node, ast.Await)}
    return [node for node in nodes if isinstance(node, ast.Call) and id(node) not in awaited]
