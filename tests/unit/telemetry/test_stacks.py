"""Stacks of threads and tasks as text: complete, bounded, and without values."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tykpy.telemetry import stacks
from tykpy.telemetry.stacks import MAX_NAMES, MAX_SHOWN_FRAMES, MAX_TEXT, stacks_of_process


def wait_deep(depth: int, entered: threading.Semaphore, go_on: threading.Event) -> None:
    if depth:
        wait_deep(depth - 1, entered, go_on)
    else:
        entered.release()
        go_on.wait()


def while_waiting(look: Callable[[], str], names: list[str], depth: int = 0) -> str:
    """Look while threads with these names wait, each this deep in itself."""
    entered, go_on = threading.Semaphore(0), threading.Event()
    threads = [threading.Thread(target=wait_deep, args=(depth, entered, go_on), name=name) for name in names]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            entered.acquire()
        # All of them have to wait, for the same lock, to have the same stack.
        while look().count("in Condition.wait\n") != 1:
            pass
        return look()
    finally:
        go_on.set()
        for thread in threads:
            thread.join()


def test_equal_stacks_are_shown_once() -> None:
    names = [f"one-of-many-{number:02}" for number in range(MAX_NAMES + 3)]
    text = while_waiting(lambda: stacks_of_process([]), names)
    assert f"threads {', '.join(names[:MAX_NAMES])} and 3 more\n" in text
    assert text.startswith("thread MainThread\n")


def test_the_outer_frames_of_a_deep_stack_go() -> None:
    text = while_waiting(lambda: stacks_of_process([]), ["deep"], depth=200)
    (stack,) = [part for part in text.split("\nthread ") if "in wait_deep\n" in part]
    assert stack.count("  File ") == MAX_SHOWN_FRAMES
    assert "frames that called these" in stack
    assert "in Condition.wait\n" in stack


def test_names_cannot_write_lines_of_their_own() -> None:
    text = while_waiting(lambda: stacks_of_process([]), ["a\nb\x1b[2J" + "x" * 1_000])
    assert "thread a\\nb\\x1b[2Jxxx" in text
    assert max(map(len, text.splitlines())) < 500


def test_tasks_show_what_they_wait_for() -> None:
    async def inner() -> None:
        secret = "a-value"
        await asyncio.Event().wait()
        assert secret

    async def outer() -> None:
        await inner()

    async def look() -> str:
        task = asyncio.create_task(outer(), name="waits")
        await asyncio.sleep(0)
        text = stacks_of_process(asyncio.all_tasks())
        task.cancel()
        return text

    text = asyncio.run(look())
    task = text.partition("task waits\n")[2]
    assert [line.rpartition(", in ")[2].rpartition(".")[2] for line in task.splitlines()[:3]] == [
        "outer",
        "inner",
        "wait",
    ]
    assert "a-value" not in text


def test_the_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> str:
        # Coroutines with names of their own have stacks that are not equal.
        tasks = [asyncio.create_task(coroutine(number)) for number in range(1_500)]
        await asyncio.sleep(0)
        text = stacks_of_process(tasks)
        for task in tasks:
            task.cancel()
        return text

    def coroutine(number: int) -> "Coroutine[Any, Any, None]":
        names: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        exec(f"import asyncio\nasync def wait_{number}():\n    await asyncio.Event().wait()\n", names)
        return names[f"wait_{number}"]()

    text = asyncio.run(look())
    assert MAX_TEXT // 2 < len(text) <= MAX_TEXT
    monkeypatch.setattr(stacks, "MAX_TEXT", 1_000_000)
    assert "and 500 more tasks\n" in asyncio.run(look())
