"""The fenced code blocks of the documentation's pages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.root import ROOT

PAGES: Final = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK: Final = re.compile(
    r'^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^(?P=indent)```$',
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One block, without the indentation of a list that it stands in."""

    page: Path
    line: int
    language: str
    title: str
    """The file that the reader shall write it to; empty: none."""
    text: str


def blocks(page: Path, language: str | None = None) -> Iterator[Block]:
    """Yield a page's blocks, or those of one language."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        if language in (None, match["language"]):
            code = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            line = text.count("\n", 0, match.start("text")) + 1
            yield Block(page, line, match["language"], match["title"] or "", code)
