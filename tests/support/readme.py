"""The code blocks of README.md, for tests that execute them."""

import json
import re
from typing import Any

from tests.support.root import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def json_block(part: str, *, without: str = "\0") -> Any:
    """Return the only block of JSON that contains `part`, and not the other."""
    (found,) = [block for block in blocks("json") if part in block and without not in block]
    return json.loads(found)


def first_middleware() -> str:
    """The source of the first middleware."""
    (source,) = [block for block in blocks("python") if "add_hello" in block]
    return source
