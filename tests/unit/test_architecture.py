"""The map of the tree in docs/architecture.md matches the files, and is short."""

import re
from typing import Final

import pytest

from tests.support.root import ROOT

ROOMS: Final = (
    "bench", "broker", "bundles", "client", "commands", "ipc", "redisclient", "telemetry", "tyk", "workers",
)  # fmt: skip
MAX_HOPS: Final = 14
MAX_WORDS: Final = 25
EXAMPLES: Final = {"bundles/quota.py"}
"""Files that a page tells its reader to create."""
MAP: Final = (ROOT / "docs" / "architecture.md").read_text()


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
