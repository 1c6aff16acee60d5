"""Findings of lint and convert, each with its place, and the comments and settings that allow them.

`# tykpy: ignore` allows all findings on its line, `# tykpy: ignore[rule, rule]` those of these rules. `ignore` in
`[tool.tykpy.lint]` of a project's `pyproject.toml` allows what these rules find in its bundles, also where there is no
line.
"""

import ast
import difflib
import io
import os
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tykpy.commands.errors import CommandError
from tykpy.commands.lint.catalogue import RULES, UNKNOWN_RULE, UNUSED_IGNORE
from tykpy.ipc.text import bounded, why_unread

_COMMENT: Final = re.compile(r"#\s*tykpy:\s*ignore(?:\[([^\]]*)\])?")
_PROJECT: Final = "pyproject.toml"
_TABLE: Final = "[tool.tykpy.lint]"
_MAX_NAME: Final = 40
"""Most characters of an unknown name that are shown."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding. Lines and columns count from 1; line 0 stands for the whole file."""

    file: str
    line: int
    column: int
    rule: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.rule}: {self.message}"


@dataclass(frozen=True, slots=True)
class LintReport:
    """The findings in a bundle, and what was checked."""

    findings: list[Finding]
    files: int
    """Python files whose code was read."""
    unchecked: tuple[str, ...]
    """What was not checked, in words."""


def at(file: str, node: ast.AST, rule: str, message: object) -> Finding:
    """Return a finding at a node of the file's syntax tree."""
    line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
    return Finding(file, line, column + 1, rule, str(message))


def in_characters(finding: Finding, lines: list[str]) -> Finding:
    """Count the finding's column in characters: syntax trees count the bytes of UTF-8."""
    line = lines[finding.line - 1] if 0 < finding.line <= len(lines) else ""
    if line.isascii():
        return finding
    before = line.encode(errors="surrogatepass")[: finding.column - 1]
    return replace(finding, column=len(before.decode(errors="ignore")) + 1)


@dataclass(slots=True)
class Ignore:
    """A comment that allows findings on its line."""

    line: int
    column: int
    rules: tuple[str, ...]
    """The rules it names; none: it allows everything."""
    used: set[str] = field(default_factory=set)
    """The rules that found something on its line."""

    def allows(self, finding: Finding) -> bool:
        """Return whether the finding is allowed, and remember that it was there."""
        if self.rules and finding.rule not in self.rules:
            return False
        self.used.add(finding.rule)
        return True

    def mistakes(self, file: str) -> Iterator[Finding]:
        """Yield the rules that do not exist, and those that found nothing."""
        for name in self.rules:
            if name not in RULES:
                yield Finding(file, self.line, self.column, UNKNOWN_RULE.name, _unknown(name))
            elif name not in self.used and RULES[name].found_by != "convert":
                message = f"{name} finds nothing on this line; remove it from the comment"
                yield Finding(file, self.line, self.column, UNUSED_IGNORE.name, message)
        if not self.rules and not self.used:
            message = "nothing is found on this line; remove the comment"
            yield Finding(file, self.line, self.column, UNUSED_IGNORE.name, message)


def read_ignores(text: str) -> dict[int, Ignore]:
    """Return the comments of a Python file by line. A file that cannot be split into tokens has none."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return {}
    comments = ((token.start, _COMMENT.search(token.string)) for token in tokens if token.type == tokenize.COMMENT)
    return {
        line: Ignore(line, column + found.start() + 1, tuple(re.findall(r"[^\s,]+", found[1] or "")))
        for (line, column), found in comments
        if found is not None
    }


def is_allowed(finding: Finding, ignores: Mapping[int, Ignore]) -> bool:
    """Return whether a comment on its line allows a finding."""
    ignore = ignores.get(finding.line)
    return ignore is not None and ignore.allows(finding)


def not_ignored(bundle: Path, findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that the project of a bundle does not ignore. Raises CommandError for wrong settings."""
    ignored = ignored_rules(bundle)
    return [finding for finding in findings if finding.rule not in ignored]


def ignored_rules(bundle: Path) -> frozenset[str]:
    """Return the rules that a project ignores: the nearest file with the table counts, in the bundle or above it.

    Raises CommandError if the settings are wrong.
    """
    where = bundle.absolute()
    for folder in (where, *where.parents):
        path = folder / _PROJECT
        table = _table(path) if os.path.isfile(path) else None
        if table is not None:
            return _ignored(table, path)
    return frozenset()


def _table(path: Path) -> Mapping[str, Any] | None:
    try:
        found: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{path}: {why_unread(error)}") from error
    except ValueError as error:  # its encoding, or its syntax
        raise CommandError(f"{path}: {error}") from error
    except RecursionError as error:
        raise CommandError(f"{path}: is nested too deeply") from error
    for name in ("tool", "tykpy", "lint"):
        found = found.get(name)
        if not isinstance(found, dict):
            return None
    return dict(found)


def _ignored(table: Mapping[str, Any], path: Path) -> frozenset[str]:
    for key in table:
        if key != "ignore":
            raise CommandError(f"{path}: {_TABLE} has only `ignore`, not {bounded(key, _MAX_NAME)!r}")
    names = table.get("ignore", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CommandError(f'{path}: {_TABLE} ignore is a list of rules, such as ["hook-missing"]')
    for name in names:
        if name not in RULES:
            raise CommandError(f"{path}: {_TABLE} ignore: {_unknown(name)}")
    return frozenset(names)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, RULES, 1)
    advice = f"; did you mean {near[0]}?" if near else "; docs/lint lists all"
    return f"there is no rule {bounded(name, _MAX_NAME)}{advice}"
