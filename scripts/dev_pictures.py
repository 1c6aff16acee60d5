"""`python -m scripts.dev_pictures`: renew the pictures of `tykpy dev`, docs/dev.svg and docs/dev-inspector.png.

Both show real runs: the terminal with the README's first hook, and the inspector with the example bundle.
"""

import asyncio
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console, RenderableType
from rich.text import Text

from tests.support.browser import browsing
from tests.support.dev_command import DevCommand
from tests.support.readme import first_middleware
from tests.support.root import ROOT

DOCS: Final = ROOT / "docs"
EXAMPLE: Final = ROOT / "examples" / "bundles" / "example"
WIDTH: Final = 100
"""Columns of the terminal."""
_FONT: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    """Write both."""
    os.environ["FORCE_COLOR"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        (DOCS / "dev.svg").write_text(terminal(Path(folder)))
        asyncio.run(inspector(Path(folder), DOCS / "dev-inspector.png"))


def terminal(folder: Path) -> str:
    """Return the terminal as SVG: a request, a save with a mistake, and a request that fails."""
    source = folder / "hello.py"
    source.write_text(first_middleware())
    with DevCommand(source, folder / "terminal") as dev:
        dev.wait_for("1 hook")
        dev.get("/orders")
        dev.wait_for("upstream")
        source.write_text(first_middleware().replace('"from Python"', 'request.get_header("X-Name").title()'))
        dev.wait_for("loading again")
        dev.wait_for("1 hook", after=dev.output.partition("loading again")[0])
        dev.get("/orders")
        dev.wait_for("Middleware error")
        output = dev.output.replace(str(dev.port), "8080").replace(f"{folder}/", "")
    return as_svg(Text.from_ansi(f"$ tykpy dev hello.py\n{output}".rstrip()), "tykpy dev", WIDTH)


def as_svg(output: RenderableType, title: str, width: int) -> str:
    """Return what a terminal shows, as SVG that needs no other file."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(output, highlight=False)
    return _FONT.sub("", console.export_svg(title=title, unique_id=title.replace(" ", "-")))


async def inspector(folder: Path, path: Path) -> None:
    """Write a screenshot of the inspector."""
    api = folder / "api.json"
    api.write_text(
        '{"name": "Orders", "api_id": "orders", "proxy": {"listen_path": "/"}, "use_keyless": false,'
        ' "enable_coprocess_auth": true, "custom_middleware_bundle": "example"}'
    )
    with DevCommand(EXAMPLE, folder / "inspector", "--api", str(api)) as dev:
        dev.get("/orders", Authorization="nobody")
        dev.get("/orders", Authorization="gold-token", X_Client_Version="1")
        body = b'{"item": "tea", "count": 2}'
        dev.get("/orders?id=7&debug=1", "POST", body, Authorization="gold-token", Content_Type="application/json")
        async with browsing(folder) as page:
            await page.go(f"http://localhost:{dev.port}/__tykpy")
            await page.wait_for("document.querySelectorAll('#list li').length === 3")
            await page.evaluate("document.querySelector('#list a').click()")
            await page.wait_for("document.querySelectorAll('.card').length > 4")
            await page.screenshot(path, width=1100, height=960)


if __name__ == "__main__":
    main()
