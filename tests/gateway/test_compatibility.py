"""docs/compatibility.md lists every test of this folder, and only tests that exist."""

import ast
import re
from pathlib import Path

from tests.support.root import ROOT

DOCUMENT = ROOT / "docs" / "compatibility.md"
ROW = re.compile(r"^\| (?!statement|---)(?P<statement>.+?) \| (?P<tests>`.+`) \|$")
NAMED = re.compile(r"`(?:(?P<path>tests/\S+\.py)::)?(?P<name>test_\w+)`")


def functions_of(path: Path) -> set[str]:
    """Return the names of a file's test functions."""
    nodes = ast.parse(path.read_text()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def rows() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return every statement with its tests, each as a path (empty: in this folder) and a name."""
    found = []
    for line in DOCUMENT.read_text().splitlines():
        match = ROW.match(line)
        if match:
            tests = [(named["path"] or "", named["name"]) for named in NAMED.finditer(match["tests"])]
            found.append((match["statement"], tests))
    return found


def own_tests() -> list[str]:
    """Return the names of this folder's tests, without those of this file."""
    files = sorted(path for path in Path(__file__).parent.rglob("test_*.py") if path != Path(__file__))
    return [name for file in files for name in functions_of(file)]


def test_every_listed_test_exists() -> None:
    assert len(rows()) > 100
    own = set(own_tests())
    for statement, tests in rows():
        assert tests, statement
        for path, name in tests:
            assert name in (functions_of(ROOT / path) if path else own), statement


def test_every_test_of_the_table_is_listed() -> None:
    listed = {name for _, tests in rows() for path, name in tests if not path}
    assert sorted(set(own_tests()) - listed) == []


def test_no_two_tests_of_the_table_have_one_name() -> None:
    names = own_tests()
    assert len(names) == len(set(names))


def test_every_line_of_the_tables_is_understood() -> None:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    heads = ("| statement | test |", "| --- | --- |")
    assert [line for line in lines if not ROW.match(line) and line not in heads] == []
