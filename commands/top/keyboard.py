"""Read single keys from the terminal."""

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

LEFT: Final = "left"
RIGHT: Final = "right"
UP: Final = "up"
DOWN: Final = "down"
_ESCAPES: Final = {"\x1b[D": LEFT, "\x1b[C": RIGHT, "\x1b[A": UP, "\x1b[B": DOWN}
_MAX_READ: Final = 64


class Keyboard:
    """The keys that are pressed in the terminal of this process."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno()

    def wait(self, seconds: float) -> str:
        """Return the key that is pressed within a time, an arrow by its name, or an empty string.

        Raises EOFError when the terminal is gone.
        """
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return ""
        typed = os.read(self._descriptor, _MAX_READ).decode(errors="replace")
        if not typed:
            raise EOFError("the terminal is gone")
        return _ESCAPES.get(typed, typed[0])


@contextlib.contextmanager
def single_keys() -> Iterator[Keyboard]:
    """Deliver keys at once and without an echo; Ctrl-C still interrupts."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keyboard()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
