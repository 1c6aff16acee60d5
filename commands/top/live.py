"""The full-screen view: a new sample every second, and keys."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tykpy.commands.errors import CommandError
from tykpy.commands.pool import ask_broker
from tykpy.commands.stacks import lines_of
from tykpy.commands.terminal import harmless
from tykpy.commands.top.keyboard import DOWN, LEFT, RIGHT, UP, Keyboard, single_keys
from tykpy.commands.top.samples import SAMPLE_SECONDS, Samples
from tykpy.commands.top.screen import KEYS, SORTS, Screen
from tykpy.telemetry.records import counted

TICK: Final = 0.2
"""Seconds without a key after which the screen is drawn again, in the size that the terminal has then."""
RELOAD_SECONDS: Final = 120.0
"""Time to wait for the result of a reload."""


def run(runtime_dir: Path) -> None:
    """Show the broker until `q` or Ctrl-C. Raises CommandError if none runs at the start."""
    view = FullScreen(runtime_dir)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        with single_keys() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
            view.show(live, keyboard)
    except (KeyboardInterrupt, EOFError):
        pass
    finally:
        view.close()


class FullScreen:
    """State of the screen: the newest sample, the sort column, a question, and a text in place of the hooks."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._samples = Samples(runtime_dir)
        self._view = self._samples.take()
        self._due = time.monotonic() + SAMPLE_SECONDS
        self._sort = 0
        self._notice = ""
        self._message = ""
        self._asks_to_reload = False
        self._text: list[str] | None = None
        self._first_line = 0
        # One request at a time; the view goes on meanwhile.
        self._requests = ThreadPoolExecutor(1, thread_name_prefix="admin")
        self._request: Future[Any] | None = None
        self._request_name = ""

    def close(self) -> None:
        """Do not wait for a request that is under way."""
        self._requests.shutdown(wait=False, cancel_futures=True)

    def show(self, live: Live, keyboard: Keyboard) -> None:
        """Draw, and obey keys, until `q`."""
        while True:
            self._sample()
            self._take_answer()
            live.update(self._draw(live.console), refresh=True)
            key = keyboard.wait(TICK)
            if key and not self._obey(key):
                return

    def _sample(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + SAMPLE_SECONDS
        try:
            self._view, self._notice = self._samples.take(), ""
        except CommandError as error:
            # The next broker of the folder is shown as soon as it runs.
            self._notice = str(error)

    def _obey(self, key: str) -> bool:
        """Do what a key stands for; return False to quit."""
        self._message = ""
        if self._asks_to_reload:
            self._asks_to_reload = False
            if key in "yY":
                self._ask("reload", RELOAD_SECONDS)
            return True
        if self._text is not None:
            self._scroll(key)
            return True
        if key in "qQ":
            return False
        if key in ("<", LEFT, ">", RIGHT):
            self._sort = (self._sort + (1 if key in (">", RIGHT) else -1)) % len(SORTS)
        elif key in "sS":
            self._ask("stacks")
        elif key in "rR":
            self._asks_to_reload = True
        return True

    def _scroll(self, key: str) -> None:
        if key in (UP, DOWN):
            self._first_line = max(self._first_line + (1 if key == DOWN else -1), 0)
        else:
            self._text = None

    def _ask(self, method: str, seconds: float = 10.0) -> None:
        if self._request is None:
            self._request_name = method
            self._request = self._requests.submit(ask_broker, self._runtime_dir, method, timeout=seconds)

    def _take_answer(self) -> None:
        request = self._request
        if request is None or not request.done():
            return
        self._request = None
        try:
            answer = request.result()
        except (CommandError, OSError) as error:
            self._message = str(error)
            return
        if self._request_name == "stacks":
            self._text, self._first_line, self._message = list(lines_of(answer)), 0, ""
        else:
            self._message = f"reloaded by {counted(answer['workers'], 'worker')} in {answer['seconds']:.2f} s"

    def _draw(self, console: Console) -> RenderableType:
        if self._text is not None:
            lines = self._text[self._first_line :][: console.size.height - 2]
            shown = [Text(harmless(line), no_wrap=True, overflow="ellipsis") for line in lines]
            return Group(*shown, Text(), Text("up, down: scroll   any other key: back", style="dim"))
        return Screen(self._view, SORTS[self._sort], notice=self._notice, footer=self._footer())

    def _footer(self) -> str:
        if self._asks_to_reload:
            return "reload the bundles? y: yes   any other key: no"
        if self._request is not None:
            return f"waiting for the answer to {self._request_name} ..."
        if self._message:
            return harmless(self._message)
        return f"{KEYS}   by {SORTS[self._sort].lower()}"
