"""docs/lint: every rule has a page, whose first example the rule finds, and whose second is right."""

from pathlib import Path

import pytest

from tests.support.pages import PAGES as ALL_PAGES
from tests.support.pages import Block, blocks
from tests.support.root import ROOT
from tykpy.bundles.files.manifest import Manifest
from tykpy.commands.lint.catalogue import RULES
from tykpy.commands.lint.differences import difference_rules
from tykpy.commands.lint.lint import lint
from tykpy.commands.lint.rules import findings_of
from tykpy.commands.lint.sources import read_sources

FOLDER = ROOT / "docs" / "lint"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
NOT_OF_ONE_FILE = {
    "bundle", "cannot-load", "chain", "file-missing", "hook-missing", "hook-undecorated", "hook-unlisted", "nesting",
    "several", "syntax",
}  # fmt: skip
NOT_A_MISTAKE = {"async", "event", "returned-object", "trigger-event"}


def rules_found(tmp_path: Path, code: str, rule: str) -> list[str]:
    path = tmp_path / "hooks.py"
    path.write_text(code)
    if RULES[rule].found_by == "lint":
        return [finding.rule for finding in lint(path).findings]
    sources = read_sources(path, Manifest(file_list=(path.name,)), path.name)
    return [finding.rule for finding in findings_of(sources, path.name, difference_rules)]


MIDDLEWARE = [block for page in ALL_PAGES for block in blocks(page, "python") if block.title == "middleware.py"]


@pytest.mark.parametrize("block", MIDDLEWARE, ids=lambda block: block.page.stem)
def test_hooks_that_pages_recommend_pass(tmp_path: Path, block: Block) -> None:
    (tmp_path / "middleware.py").write_text(block.text)
    assert lint(tmp_path / "middleware.py").findings == []


def test_every_rule_has_a_page() -> None:
    assert {page.stem for page in PAGES} == set(RULES)
    for page in PAGES:
        assert page.read_text().startswith(f"# `{page.stem}`\n\n")


def test_rules_that_find_code_have_examples() -> None:
    without = {page.stem for page in PAGES if not list(blocks(page))}
    assert without - NOT_OF_ONE_FILE - NOT_A_MISTAKE == {name for name in RULES if RULES[name].found_by == "worker"}


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page))], ids=lambda page: page.stem)
def test_examples_are_judged_as_the_page_says(tmp_path: Path, page: Path) -> None:
    found, *right = blocks(page)
    assert rules_found(tmp_path, found.text, page.stem) == [page.stem]
    assert [rules_found(tmp_path, block.text, page.stem) for block in right] == [[] for _ in right]
