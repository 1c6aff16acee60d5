"""Findings of lint and convert, each with its place."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_ALLOWED: Final = re.compile(r"#\s*tykpy:\s*ignore(?:\[([\w\-, ]+)\])?")


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


def without_allowed(findings: Iterator[Finding], file: str, source: str) -> Iterator[Finding]:
    """Leave out findings allowed by a comment on their line: `# tykpy: ignore`, or `# tykpy: ignore[rule, rule]`."""
    lines = source.splitlines()
    try:
        for finding in findings:
            line = lines[finding.line - 1] if 0 < finding.line <= len(lines) else ""
            allowed = _ALLOWED.search(line)
            if allowed is None or (allowed[1] and finding.rule not in re.split(r"[,\s]+", allowed[1])):
                yield finding
    except RecursionError:
        yield Finding(file, 0, 0, "nesting", "is nested too deeply to be looked at")
