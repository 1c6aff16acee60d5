"""The rules of the tree: no circular imports, small folders, one class per name, and a map that matches the files."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

from tests.support.root import ROOT

ROOMS: Final = (
    "bench", "broker", "bundles", "client", "commands", "devserver", "ipc", "redisclient", "telemetry", "testing",
    "traffic", "tyk", "workers",
)  # fmt: skip
GENERATED: Final = ROOT / "tyk" / "proto"
MAX_FILES: Final = 16
MAX_HOPS: Final = 14
MAX_WORDS: Final = 25
EXAMPLES: Final = {"bundles/quota.py"}
"""Files that a page tells its reader to create."""
MAP: Final = (ROOT / "docs" / "architecture.md").read_text()


def sources() -> list[Path]:
    """Return the modules of the program, without generated ones."""
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if GENERATED not in path.parents]
    return sorted([*ROOT.glob("*.py"), *rooms])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return name if parts[0] == "tyk" else f"tykpy.{name}"


def imported(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Yield the program's modules that a file imports anywhere, also in functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in modules:
                    yield name
                elif node.module in modules:
                    yield node.module


def test_no_module_takes_part_in_a_circle_of_imports() -> None:
    files = {module_name(path): ast.parse(path.read_text()) for path in sources()}
    graph = {name: set(imported(tree, set(files))) for name, tree in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_folder_of_the_program_has_too_many_files() -> None:
    count: dict[str, int] = defaultdict(int)
    for path in sources():
        if path.name != "__init__.py":
            count[str(path.parent.relative_to(ROOT))] += 1
    assert {folder: files for folder, files in count.items() if files > MAX_FILES} == {}


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module_name(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_to_a_heading_finds_it() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for path, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            target = (page.parent / path) if path else page
            assert anchor in anchors(target.read_text()), f"{page}: {path}#{anchor}"


def test_every_file_and_folder_that_a_page_names_exists() -> None:
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for page in (ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        named = re.findall(r"`([\w.]+/[\w./-]*)", page.read_text())
        ours = [path for path in named if path.split("/")[0] in tops and path.endswith((".py", "/"))]
        assert [path for path in ours if path not in EXAMPLES and not (ROOT / path).exists()] == [], page


def test_every_room_is_on_the_map() -> None:
    assert [room for room in ROOMS if f"| `{room}/" not in MAP and f", `{room}/`" not in MAP] == []


@pytest.mark.parametrize("way", ["To the hook", "Back to the gateway"])
def test_a_dispatch_takes_few_hops_with_a_file_each(way: str) -> None:
    (section,) = re.findall(rf"### {way}\n\n(.*?)\n\n", MAP, re.DOTALL)
    hops = re.findall(r"^\d+\. `[\w/]+\.py`", section, re.MULTILINE)
    assert 0 < len(hops) <= MAX_HOPS
    assert len(hops) == len(re.findall(r"^\d+\.", section, re.MULTILINE))


def test_the_glossary_is_short() -> None:
    (table,) = re.findall(r"## Words\n\n(.*?)(?:\n\n|\Z)", MAP, re.DOTALL)
    words = [word for row in table.splitlines()[2:] for word in row.split("|")[1].split(",")]
    assert len(words) <= MAX_WORDS
