"""The forms in which findings are printed: for people, as annotations of GitHub Actions, as SARIF 2.1.0."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from tykpy.commands.lint.catalogue import RULES, Rule
from tykpy.commands.lint.findings import Finding
from tykpy.commands.terminal import harmless

_SARIF_VERSION: Final = "2.1.0"
_LINK: Final = re.compile(r"\[([^\[\]]+)\]\([^()\s]+\.md(?:#[^()\s]*)?\)")
"""A link of a page, which leads nowhere outside the documentation."""
_SARIF_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def as_console(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a line for each finding: place, rule, message."""
    return (harmless(finding) for finding in findings)


def as_github(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a workflow command for each finding, which GitHub shows at its line of a pull request."""
    for finding in findings:
        properties = {"file": finding.file, "line": finding.line, "col": finding.column, "title": finding.rule}
        shown = ",".join(f"{name}={_escaped_property(str(value))}" for name, value in properties.items() if value)
        yield f"::{RULES[finding.rule].level} {shown}::{_escaped(finding.message)}"


def as_sarif(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield one SARIF log with all findings, for code scanning and editors (OASIS SARIF 2.1.0)."""
    driver = {"name": "tykpy", "version": version("tykpy"), "rules": [_descriptor(rule) for rule in RULES.values()]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding) for finding in findings],
    }
    yield json.dumps({"$schema": _SARIF_SCHEMA, "version": _SARIF_VERSION, "runs": [run]}, indent=2)


FORMATS: Final[Mapping[str, Callable[[Iterable[Finding]], Iterator[str]]]] = {
    "console": as_console,
    "github": as_github,
    "sarif": as_sarif,
}


def _escaped(text: str) -> str:
    """Escape a message as actions/toolkit does (`escapeData`)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _descriptor(rule: Rule) -> dict[str, Any]:
    """Describe a rule, with all that GitHub's code scanning shows."""
    return {
        "id": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.summary},
        "help": _help(rule),
        "defaultConfiguration": {"level": rule.level},
    }


def _help(rule: Rule) -> dict[str, str]:
    """Return the rule's page. There is no address to give: the site is where its operator puts it."""
    page = files("tykpy.commands.lint").joinpath("pages", f"{rule.name}.md").read_text(encoding="utf-8")
    body = _LINK.sub(r"\1", page.partition("\n\n")[2])
    allowed = f"`# tykpy: ignore[{rule.name}]` on a line allows it; `ignore` in pyproject.toml turns it off."
    text = " ".join(body.partition("\n## ")[0].split())
    return {"text": f"{text} {allowed}", "markdown": f"{body.strip()}\n\n{allowed}\n"}


def _result(finding: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.file)}}
    if finding.line:
        place["region"] = {"startLine": finding.line, "startColumn": max(finding.column, 1)}
    return {
        "ruleId": finding.rule,
        "ruleIndex": list(RULES).index(finding.rule),
        "level": RULES[finding.rule].level,
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": place}],
    }


def _uri(file: str) -> str:
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="surrogateescape")
