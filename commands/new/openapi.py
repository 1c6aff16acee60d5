"""Read the name and the operations of an API from an OpenAPI or Tyk OAS document, in JSON or YAML.

Both are read as YAML, which has JSON in it, because its parser knows the line of every part.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tykpy.commands.errors import CommandError
from tykpy.ipc.regular_file import read_at_most
from tykpy.ipc.text import bounded, why_unread

if TYPE_CHECKING:
    from yaml import Node

_MAX_FILE: Final = 16 * 1024 * 1024
"""Bytes of a document that is read."""
_MAX_OPERATIONS: Final = 2_000
_MAX_TITLE: Final = 60
"""Characters of a title that are kept."""
_MAX_SHOWN: Final = 80
"""Characters of a wrong value that are shown."""
_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_TYK: Final = "x-tyk-api-gateway"
_NAME: Final = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_PATH: Final = re.compile(r"/[!-~]{0,1000}")
_PLACEHOLDER: Final = re.compile(r"\{[^{}/]+\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path."""

    name: str
    """The `operationId`, or method and path where there is none that can be a header's value."""
    method: str
    path: str
    """With placeholders, as in `/pets/{petId}`."""


@dataclass(frozen=True, slots=True)
class ApiDocument:
    """An API."""

    title: str
    listen_path: str
    """The path below which the gateway serves it."""
    operations: tuple[Operation, ...]
    """Those with fewer placeholders first, so that `/pets/mine` is found before `/pets/{petId}`."""


def read_document(file: Path) -> ApiDocument:
    """Read a document. Raises CommandError with file, line and what to do."""
    return _Reader(file).read()


class _Reader:
    """Reads one document; errors name its file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> ApiDocument:
        root = self._mapping(self._parsed(), "the document")
        if "openapi" not in root and "swagger" not in root:
            hint = ": it is a classic API definition; export it as Tyk OAS" if "proxy" in root else ""
            raise self._wrong(None, f"this is no OpenAPI document, it has neither openapi nor swagger{hint}")
        info = self._part(root, "info")
        tyk = self._part(root, _TYK)
        return ApiDocument(
            self._title(info, self._part(tyk, "info")), self._listen_path(tyk), tuple(self._operations(root))
        )

    def _parsed(self) -> "Node | None":
        try:
            import yaml
        except ImportError as error:
            raise CommandError("--from-openapi needs PyYAML: pip install 'tykpy[dev]'") from error
        text = self._text()
        if text.lstrip().startswith("{"):
            try:
                json.loads(text)
            except (ValueError, RecursionError) as error:
                raise self._wrong(getattr(error, "lineno", None), f"is not JSON: {error}") from error
            text = text.replace("\t", " ")  # YAML has no tabs between values; JSON has them nowhere else
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        try:
            return yaml.compose(text, loader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            raise self._wrong(line, f"is not YAML: {error.problem}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise self._wrong(None, f"is not YAML: {error}") from error

    def _text(self) -> str:
        try:
            return read_at_most(self._file, _MAX_FILE).decode("utf-8-sig")
        except OSError as error:
            raise CommandError(f"{self._file}: cannot be read: {why_unread(error)}") from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{self._file}: not UTF-8: {error.reason} at byte {error.start}") from error

    def _title(self, info: "dict[str, Node]", tyk_info: "dict[str, Node]") -> str:
        """Return Tyk's name of the API or the title, in one line."""
        node = tyk_info.get("name") or info.get("title")
        text = "" if node is None else self._scalar(node, "the title")
        return bounded(" ".join("".join(c if c.isprintable() else " " for c in text).split()), _MAX_TITLE)

    def _listen_path(self, tyk: "dict[str, Node]") -> str:
        node = self._part(self._part(tyk, "server"), "listenPath").get("value")
        if node is None:
            return "/"
        path = self._scalar(node, "listenPath.value")
        if not _PATH.fullmatch(path):
            raise self._wrong(node, f"listenPath.value is {_shown(path)}; it begins with / and is printable ASCII")
        return path

    def _operations(self, root: "dict[str, Node]") -> "list[Operation]":
        if "paths" not in root:
            raise self._wrong(None, "has no paths; without them, leave --from-openapi out")
        lines: dict[object, int] = {}
        found = []
        for operation, node in self._all_operations(self._part(root, "paths")):
            line = node.start_mark.line + 1
            same = (operation.method, _PLACEHOLDER.sub("{}", operation.path))
            for key, what in ((operation.name, f"operationId {operation.name}"), (same, f"{' '.join(same)}")):
                if lines.setdefault(key, line) != line:
                    raise self._wrong(node, f"{what} is in line {lines[key]} too; it must be unique")
            found.append(operation)
            if len(found) > _MAX_OPERATIONS:
                raise self._wrong(node, f"more than {_MAX_OPERATIONS} operations are too many")
        return sorted(found, key=lambda operation: len(_PLACEHOLDER.findall(operation.path)))

    def _all_operations(self, paths: "dict[str, Node]") -> "Iterator[tuple[Operation, Node]]":
        for path, item in paths.items():
            if path.startswith("x-"):
                continue
            if not _PATH.fullmatch(path):
                raise self._wrong(item, f"the path {_shown(path)} must begin with / and be printable ASCII")
            for method, node in self._mapping(item, path).items():
                if method in _METHODS:
                    member = self._mapping(node, f"{method} of {path}").get("operationId")
                    name = "" if member is None else self._scalar(member, "operationId")
                    name = name if _NAME.fullmatch(name) else f"{method.upper()} {path}"
                    yield Operation(name, method.upper(), path), node

    def _part(self, parts: "dict[str, Node]", name: str) -> "dict[str, Node]":
        node = parts.get(name)
        return {} if node is None else self._mapping(node, name)

    def _mapping(self, node: "Node | None", what: str) -> "dict[str, Node]":
        import yaml

        if not isinstance(node, yaml.MappingNode):
            raise self._wrong(node, f"{_shown(what)} must be an object with named members")
        return {str(key.value): value for key, value in node.value if isinstance(key, yaml.ScalarNode)}

    def _scalar(self, node: "Node", what: str) -> str:
        if isinstance(node.value, list):
            raise self._wrong(node, f"{what} must be a text")
        return str(node.value)

    def _wrong(self, place: "Node | int | None", reason: str) -> CommandError:
        line = place.start_mark.line + 1 if place is not None and not isinstance(place, int) else place or 1
        return CommandError(f"{self._file}:{line}: {reason}")


def _shown(text: str) -> str:
    return bounded(text, _MAX_SHOWN)
