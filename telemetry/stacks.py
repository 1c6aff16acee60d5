"""The stacks of all threads and asyncio tasks of this process, as text: places in the code, and no values.

Lines of source are not shown: to find them reads files, and may run a plugin's own import loader.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from itertools import islice
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from tykpy.telemetry.records import escape, printable, shorten

MAX_TEXT: Final = 64 * 1024
"""Longest text about one process, in characters; further stacks are left out."""
MAX_TASKS: Final = 1_000
"""Tasks that are looked at."""
MAX_SHOWN_FRAMES: Final = 40
"""Frames of one stack, the innermost ones."""
MAX_NAMES: Final = 10
"""Threads or tasks that are named for a stack that they share."""
MAX_FRAMES: Final = 10_000
_MAX_NAME: Final = 100
_MAX_FILE: Final = 200
"""Longest name, in characters; a longer one loses its beginning."""
_ROOM_FOR_NOTE: Final = 100
"""For the number of characters that were left out."""

Stack = list[tuple[FrameType, int]]
"""Frames and their lines, outermost first."""


class Work(NamedTuple):
    """What the code on a stack works on."""

    text: str = ""
    """In words; empty: nothing that is worth naming."""
    outside: int = 0
    """The number of its outermost frames that lead to it, which are not shown."""


_NO_WORK: Final = Work()


def stacks_of_process(tasks: Iterable[asyncio.Task[Any]], work_of: Callable[[Stack], Work] = lambda _: _NO_WORK) -> str:
    """Return the stacks of all threads and of these tasks; those that are equal are shown once.

    Those that work on something come first, each with what it is.
    """
    stacks: dict[tuple[bool, str, str], list[str]] = {}

    def add(kind: str, name: str, stack: Stack) -> None:
        work = work_of(stack)
        title = f"{name} ({printable(work.text, _MAX_NAME)})" if work.text else name
        stacks.setdefault((not work.text, kind, _shown(stack, work.outside)), []).append(title)

    names = _names_of_threads()
    # The main thread is the last one.
    for ident, frame in reversed(sys._current_frames().items()):
        add("thread", names.get(ident, f"number {ident}"), stack_of_thread(frame))
    found = list(tasks)
    for task in islice(found, MAX_TASKS):
        add("task", _printable(task.get_name()), stack_of_task(task))
    ordered = sorted(stacks.items(), key=lambda item: item[0][0])
    text = "".join(f"{_headline(kind, sharing)}\n{stack}" for (_, kind, stack), sharing in ordered)
    if len(found) > MAX_TASKS:
        text += f"and {len(found) - MAX_TASKS} more tasks\n"
    return shorten(text, MAX_TEXT - _ROOM_FOR_NOTE)


def stack_of_thread(frame: FrameType | None, outermost: CodeType | None = None) -> Stack:
    """Return the frames from this one outwards, up to one that runs `outermost`."""
    found: Stack = []
    while frame is not None and len(found) < MAX_FRAMES:
        found.append((frame, frame.f_lineno))
        if frame.f_code is outermost:
            break
        frame = frame.f_back
    found.reverse()
    return found


def stack_of_task(task: asyncio.Task[Any]) -> Stack:
    """Return the frames of a task that waits; `Task.get_stack` has only the outermost one of these."""
    found: Stack = []
    awaited: object = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)) is not None:
        found.append((frame, frame.f_lineno))
        if len(found) == MAX_FRAMES:
            break
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found


def _names_of_threads() -> dict[int, str]:
    # Without the lock of `threading.enumerate`, which a library may have replaced (gevent.monkey).
    threads = dict(threading._active)  # type: ignore[attr-defined]
    return {ident: _printable(vars(thread).get("_name")) for ident, thread in threads.items()}


def _printable(name: object) -> str:
    return printable(name, _MAX_NAME) if type(name) is str else "?"


def _headline(kind: str, names: list[str]) -> str:
    names.sort()
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names[:MAX_NAMES])}{more}"


def _shown(stack: Stack, outside: int) -> str:
    left_out = max(len(stack) - MAX_SHOWN_FRAMES, outside)
    lines = [f"  ... {left_out} frames that called these\n"] if left_out else []
    for frame, line in stack[left_out:]:
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname
        lines.append(f'  File "{escape(file[-_MAX_FILE:])}", line {line}, in {printable(name, _MAX_NAME)}\n')
    return "".join(lines)
