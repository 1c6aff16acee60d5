"""Create the folder of a new bundle; nothing that exists is changed."""

import json
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tykpy.commands.errors import CommandError
from tykpy.commands.new.files import CODE, IGNORED, LAUNCH, OPERATIONS, PROJECT, README, TEST
from tykpy.commands.new.hooks import AUTH, NAME_OPERATION, TEMPLATES, HookTemplate
from tykpy.commands.new.openapi import ApiDocument, Operation, read_document

_NAME: Final = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
_FOLDER_OF_GATEWAY: Final = re.compile(r"[0-9a-fA-F]{32}")
_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9]+")
_MAX_NAME: Final = 64
_LINE: Final = 120
"""Longest line of the generated code."""
_OWN_MODULES: Final = frozenset({"middleware", "operations"})
_PURPOSES: Final = {
    "manifest.json": "which hooks run where, and the files that belong to the bundle",
    "middleware.py": "the hooks",
    "operations.py": "the operations of the API, from its OpenAPI document",
    "tests/test_middleware.py": "a test of each hook",
    "pyproject.toml": "settings of pytest, mypy and ruff",
    ".vscode/launch.json": "the debugger of VS Code",
}


@dataclass(frozen=True, slots=True)
class Created:
    """What was created."""

    folder: Path
    files: tuple[str, ...]
    next_steps: tuple[str, ...]


def create(parent: Path, name: str, hooks: Sequence[str], document_file: Path | None = None) -> Created:
    """Create the bundle `name` in `parent`, with `hooks` as `--hooks` names them; an empty name: the document's.

    Raises CommandError if the name, the document, or something that exists is in the way.
    """
    document = None if document_file is None else read_document(document_file)
    name = name or _name_of(document, document_file)
    _check_name(name)
    templates = [*([NAME_OPERATION] if document else []), *(TEMPLATES[hook] for hook in hooks)]
    key = secrets.token_hex(8)
    files = _files(name, templates, key, document)
    folder = parent / name
    _write(folder, files)
    return Created(folder, tuple(sorted(files)), ("tykpy dev", _curl(templates, key, document), "pytest"))


def _name_of(document: ApiDocument | None, file: Path | None) -> str:
    title = document.title if document else ""
    name = _NOT_IN_A_NAME.sub("-", title.lower()).strip("-")[:_MAX_NAME].rstrip("-")
    if not _NAME.fullmatch(name):
        raise CommandError(
            f"{file}: no name can be made of the title {title!r}; write tykpy new NAME --from-openapi FILE"
        )
    return name


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CommandError(
            f"{name!r} cannot be a bundle's name: it has letters, digits, - and _, begins with a letter, ends with a "
            f"letter or digit, and has at most {_MAX_NAME} characters. The folder is created here"
        )
    if _FOLDER_OF_GATEWAY.fullmatch(name):
        raise CommandError(f"{name!r} looks like a folder that a gateway made for a bundle; choose another name")


def _write(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir()
    except FileExistsError as error:
        raise CommandError(f"{folder} is there already, and is left as it is; choose another name") from error
    try:
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _files(name: str, templates: Sequence[HookTemplate], key: str, document: ApiDocument | None) -> dict[str, str]:
    """Return the text of each file."""
    hooks = [template.name for template in templates]
    files = {
        "manifest.json": _manifest(templates, document),
        "middleware.py": _filled(
            CODE,
            IMPORTS=_imports({line for template in templates for line in template.imports}),
            CONSTANTS="".join(template.constants for template in templates),
            HOOKS=_joined(template.code for template in templates),
        ),
        "tests/test_middleware.py": _filled(
            TEST,
            IMPORTS=_imports(
                {"from tykpy.testing import HookCaller", *(f"from middleware import {hook}" for hook in hooks)}
                | {line for template in templates for line in template.test_imports}
            ),
            TESTS=_joined(template.test for template in templates),
        ),
        "pyproject.toml": PROJECT,
        "README.md": README,
        ".vscode/launch.json": LAUNCH,
        ".gitignore": IGNORED,
    }
    if document is not None:
        files["operations.py"] = _operations(document)
    rows = "\n".join(f"| `{file}` | {purpose} |" for file, purpose in _PURPOSES.items() if file in files)
    values = {"FILES": rows, "CURL": _curl(templates, key, document), "KEY": key, "BUNDLE": name}
    return {file: _filled(text, **values) for file, text in files.items()}


def _filled(text: str, **values: str) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _joined(parts: Iterable[str]) -> str:
    """Join functions with two empty lines between them."""
    return "\n\n\n".join(part.strip("\n") for part in parts)


def _imports(lines: Iterable[str]) -> str:
    """Merge and sort imports as ruff does: the standard library, what is installed, and the bundle's own modules."""
    groups: dict[int, list[str]] = {}
    names: dict[str, set[str]] = {}
    for line in lines:
        module, _, imported = line.removeprefix("import ").removeprefix("from ").partition(" import ")
        names.setdefault(module, set()).update(imported.split(", ") if imported else ())
    for module in sorted(names, key=lambda module: (bool(names[module]), module)):
        line = f"from {module} import {', '.join(sorted(names[module]))}" if names[module] else f"import {module}"
        top = module.partition(".")[0]
        groups.setdefault(0 if top in sys.stdlib_module_names else 2 if top in _OWN_MODULES else 1, []).append(line)
    return "\n\n".join("\n".join(groups[group]) for group in sorted(groups))


def _manifest(templates: Sequence[HookTemplate], document: ApiDocument | None) -> str:
    middleware: dict[str, Any] = {"driver": "grpc"}
    for template in templates:
        entry = {"name": template.name}
        if template.manifest_key == "auth_check":
            middleware["auth_check"] = entry
        elif template.manifest_key:
            middleware.setdefault(template.manifest_key, []).append(entry)
    files = ["middleware.py", *(["operations.py"] if document else [])]
    text = json.dumps({"file_list": files, "custom_middleware": middleware}, indent=2)
    return re.sub(r'{\s+("name": "\w+")\s+}', r"{\1}", text) + "\n"


def _operations(document: ApiDocument) -> str:
    title = re.sub(r'[\\"]', "'", document.title) or "the API"
    entries = "\n".join(_entry(operation) for operation in document.operations)
    head = "# ruff: noqa: E501\n" if max(map(len, entries.splitlines()), default=0) > _LINE else ""
    return head + _filled(OPERATIONS, TITLE=title, LISTEN_PATH=json.dumps(document.listen_path), ENTRIES=entries)


def _entry(operation: Operation) -> str:
    """Return a line of a dict, or as many as ruff makes of one that is too long."""
    name, method, path = (json.dumps(text) for text in (operation.name, operation.method, operation.path))
    line = f"    {name}: ({method}, {path}),"
    return line if len(line) <= _LINE else f"    {name}: (\n        {method},\n        {path},\n    ),"


def _curl(templates: Sequence[HookTemplate], key: str, document: ApiDocument | None) -> str:
    authorization = ["-H", f"Authorization: {key}"] if AUTH in templates else []
    return shlex.join(["curl", *authorization, f"http://localhost:8080{document.listen_path if document else '/'}"])
