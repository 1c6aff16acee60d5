"""Find calls in `async def` functions that block the event loop, and with it all other async hooks of the worker."""

import ast
from collections.abc import Iterator, Mapping
from typing import Final

from tykpy.commands.lint.findings import Finding, at
from tykpy.commands.lint.sources import SourceFile
from tykpy.commands.lint.syntax import dotted_name, imported_names, own_nodes

_BLOCKING: Final[Mapping[str, str]] = {
    "time.sleep": "await asyncio.sleep(...)",
    "os.system": "await asyncio.create_subprocess_shell(...)",
    "subprocess.call": "await asyncio.create_subprocess_exec(...)",
    "subprocess.check_call": "await asyncio.create_subprocess_exec(...)",
    "subprocess.check_output": "await asyncio.create_subprocess_exec(...)",
    "subprocess.getoutput": "await asyncio.create_subprocess_shell(...)",
    "subprocess.run": "await asyncio.create_subprocess_exec(...)",
    "socket.create_connection": "await asyncio.open_connection(...)",
    "socket.getaddrinfo": "await loop.getaddrinfo(...)",
    "socket.gethostbyname": "await loop.getaddrinfo(...)",
    "urllib.request.urlopen": "an asynchronous client such as aiohttp or httpx.AsyncClient",
    **{
        f"{library}.{name}": "an asynchronous client such as aiohttp or httpx.AsyncClient"
        for library in ("requests", "httpx")
        for name in ("delete", "get", "head", "options", "patch", "post", "put", "request")
    },
}
"""Functions that block, and what to write instead."""

_CLIENTS: Final[Mapping[str, str]] = {
    "http.client.HTTPConnection": "an asynchronous client such as aiohttp or httpx.AsyncClient",
    "http.client.HTTPSConnection": "an asynchronous client such as aiohttp or httpx.AsyncClient",
    "httpx.Client": "httpx.AsyncClient",
    "mysql.connector.connect": "an asynchronous driver",
    "psycopg.connect": "psycopg.AsyncConnection",
    "psycopg2.connect": "an asynchronous driver such as asyncpg",
    "pymongo.MongoClient": "pymongo.AsyncMongoClient",
    "pymysql.connect": "an asynchronous driver such as aiomysql",
    "redis.Redis": "redis.asyncio.Redis",
    "redis.StrictRedis": "redis.asyncio.Redis",
    "redis.from_url": "redis.asyncio.from_url",
    "requests.Session": "an asynchronous client such as aiohttp or httpx.AsyncClient",
    "requests.session": "an asynchronous client such as aiohttp or httpx.AsyncClient",
    "socket.socket": "await asyncio.open_connection(...)",
}
"""Callables that return objects with blocking methods, and what to write instead."""


def blocking_calls(file: SourceFile) -> Iterator[Finding]:
    """Yield the calls in `async def` functions that are known to block."""
    names = imported_names(file.tree)
    clients = dict(_clients(file.tree, names))
    for function in ast.walk(file.tree):
        if isinstance(function, ast.AsyncFunctionDef):
            for call in _own_calls(function):
                yield from _blocking(call, names, clients, file)


def _blocking(
    call: ast.Call, names: Mapping[str, str], clients: Mapping[str, str], file: SourceFile
) -> Iterator[Finding]:
    name = dotted_name(call.func, names)
    instead = _BLOCKING.get(name) or _CLIENTS.get(name)
    if instead is None and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        instead = clients.get(call.func.value.id)
        name = f"{call.func.value.id}.{call.func.attr}"
    if instead is not None and name != "socket.socket":
        message = f"{name} blocks the event loop of all async hooks of this worker; use {instead}, or a plain def"
        yield at(file.name, call, "blocking-call", message)


def _clients(tree: ast.AST, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            instead = _CLIENTS.get(dotted_name(node.value.func, names))
            targets = (target.id for target in node.targets if isinstance(target, ast.Name))
            yield from ((name, instead) for name in targets if instead is not None)


def _own_calls(function: ast.AsyncFunctionDef) -> list[ast.Call]:
    """Return the calls of the function itself that are not awaited; functions inside it may run elsewhere."""
    nodes = list(own_nodes(function))
    awaited = {id(node.value) for node in nodes if isinstance(node, ast.Await)}
    return [node for node in nodes if isinstance(node, ast.Call) and id(node) not in awaited]
