"""Every code block of the documentation is right: Python has the types that it says, data parses, commands exist.

A block with a title is a file. If some of a page's files are tests, they run.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import yaml

from tests.support.pages import PAGES, Block, blocks
from tests.support.root import ROOT
from tykpy.cli import main as tykpy

SELF_TESTED = [page for page in PAGES if any(Path(block.title).match("test_*.py") for block in blocks(page))]
PARSERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
}
MYPY = """
[mypy]
check_untyped_defs = True
allow_redefinition = True
disable_error_code = no-redef, var-annotated
ignore_missing_imports = True
cache_dir = /dev/null
[mypy-redis.*]
follow_imports = skip
"""
LANGUAGES = {"", "console", "go", "haproxy", "ini", "json", "nginx", "python", "sh", "text", "toml", "yaml"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def all_blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from blocks(page)


def commands(block: Block) -> list[str]:
    """Return the `tykpy` commands after the prompts of a block."""
    prompts = re.findall(r"^\$ (.*)$", block.text.replace("\\\n", " "), re.MULTILINE)
    return [found for line in prompts for found in re.findall(r"(?:^|[|&;] *|sudo |-- )(tykpy [^|&;#<>]*)", line)]


def unknown_words(line: str) -> list[str]:
    """Return the commands and options of a command line that `tykpy` does not have."""
    command: click.Command = tykpy
    known, unknown = {"-h", "--help", "--version"}, []
    for word in shlex.split(line)[1:]:
        if isinstance(command, click.Group) and not word.startswith("-"):
            if word not in command.commands:
                if command.invoke_without_command:  # the value of an option
                    continue
                return [word]
            command = command.commands[word]
            known |= {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        elif word.startswith("-") and word.partition("=")[0] not in known:
            unknown.append(word)
    return unknown


def test_unknown_commands_and_options_are_found() -> None:
    assert unknown_words("tykpy nothing --workers 2") == ["nothing"]
    assert unknown_words("tykpy broker --wrokers=2 --workers 2") == ["--wrokers=2"]


def test_languages_are_known() -> None:
    assert {block.language for block in all_blocks()} <= LANGUAGES


def test_python_has_the_types_that_it_says(tmp_path: Path) -> None:
    for number, page in enumerate(page for page in PAGES if page.name != "CONTRIBUTING.md"):
        if code := "".join(f"\n# {name(page)}:{block.line}\n{block.text}" for block in blocks(page, "python")):
            (tmp_path / f"page{number}.py").write_text(code)
    (tmp_path / "mypy.ini").write_text(MYPY)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_data_parses() -> None:
    for block in all_blocks():
        if block.language in PARSERS:
            PARSERS[block.language](block.text)


def test_commands_and_options_exist() -> None:
    for block in all_blocks():
        for line in commands(block):
            assert not unknown_words(line), f"{name(block.page)}:{block.line}: {line}"


@pytest.mark.parametrize("page", SELF_TESTED, ids=name)
def test_a_pages_own_tests_pass(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.title).write_text(block.text)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
