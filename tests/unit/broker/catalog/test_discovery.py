"""What is loaded when the folder changes, checked step by step without workers."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tykpy.broker.catalog.discovery import Discovery
from tykpy.broker.errors import ReloadError
from tykpy.ipc.description import MAX_PATH
from tykpy.ipc.text import bounded


class FakePool:
    """Stands for supervisor, reloader and router; the test decides how each generation of workers ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served: list[dict[str, Any]] = []
        self.names = SimpleNamespace(refresh=lambda: None)
        self.hooks = SimpleNamespace()
        self.loads = SimpleNamespace(is_barred=lambda _path: False)
        self.await_bundles: Callable[[bool], None] = lambda _waits: None
        self.on_generation: Callable[[bool], object]
        self.on_generation_end: Callable[[bool, bool], object]
        self.generations: list[bool] = []
        """For each, whether it was pinned."""
        self.under_way = False
        self.listener: Callable[[object], object] = lambda _outcome: None

    def request(self, listener: Callable[[object], object] | None = None, *, pinned: bool = False) -> None:
        self.generations.append(pinned)
        self.listener = listener or (lambda _outcome: None)
        self.under_way = True
        self.on_generation(pinned)

    def end(self, *, taken_over: bool = True) -> None:
        """End the generation, whose workers have loaded the bundles."""
        self.under_way = False
        if taken_over:
            self.served = [
                {"path": bounded(str(path), MAX_PATH), "error": None, "faulty": [], "state": "loaded"}
                for path in self.folder.iterdir()
            ]
        self.on_generation_end(self.generations[-1], taken_over)
        self.listener({} if taken_over else ReloadError("broken"))


class Bench:
    """A folder with one bundle, and a broker with `--reload` that has loaded it."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.folder, self.loop = folder, loop
        self.write("mine.py")
        self.pool = FakePool(folder)
        pool = cast(Any, self.pool)
        self.discovery = Discovery(loop, folder, pool, pool, pool, reloads=True)
        self.discovery.start()

    def write(self, name: str, text: str = "") -> None:
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.rename(self.folder / name)

    def look(self, times: int = 4) -> list[bool]:
        """Check the folder several times; return for each generation that this starts whether it is pinned."""
        before = len(self.pool.generations)
        for _ in range(times):
            self.discovery._look()
            self.loop.run_until_complete(asyncio.sleep(0))
        return self.pool.generations[before:]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    yield Bench(tmp_path, loop)
    loop.close()


def test_a_changed_file_is_loaded_once_it_has_settled(bench: Bench) -> None:
    assert bench.look() == []
    for text in ("1", "22"):
        bench.write("mine.py", text)
        assert bench.look(1) == []
    assert bench.look(1) == [False]
    bench.pool.end()
    assert bench.look() == []


def test_a_removed_bundle_causes_one_reload(bench: Bench) -> None:
    (bench.folder / "mine.py").unlink()
    assert bench.look() == [False]
    bench.pool.end()
    assert bench.look() == []


def test_a_refused_change_is_not_tried_again(bench: Bench) -> None:
    bench.write("mine.py", "broken")
    assert bench.look() == [False]
    bench.pool.end(taken_over=False)
    assert bench.look() == []
    bench.write("mine.py", "repaired")
    assert bench.look() == [False]


def test_a_new_bundle_starts_one_generation(bench: Bench) -> None:
    bench.write("new.py")
    assert bench.look() == [True]
    bench.pool.end()
    assert bench.look() == []


def test_calls_do_not_make_an_entry_complete_earlier(bench: Bench) -> None:
    bench.look(1)
    bench.write("mine.py", "half")
    bench.discovery.ask(False)
    assert bench.look(1) == []
    assert bench.look(1) == [False]


def test_a_change_during_a_pinned_load_is_not_lost(bench: Bench) -> None:
    bench.write("new.py")
    assert bench.look(2) == [True]
    bench.pool.end()
    bench.write("newer.py")
    bench.look(1)
    bench.write("mine.py", "changed")
    assert bench.look(1) == [True]
    bench.pool.end()
    assert bench.look() == [False]


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_bundle_that_writes_to_itself_is_left_alone(bench: Bench, taken_over: bool) -> None:
    bench.write("mine.py", "edited")
    written = 0
    while bench.look():
        written += 1
        assert written <= 2
        bench.write("mine.py", f"written {written}")
        bench.pool.end(taken_over=taken_over)
    assert written == 2
    bench.write("mine.py", "edited again")
    assert bench.look() == [False]


def test_a_loaded_bundle_of_any_name_is_not_missing(bench: Bench) -> None:
    bench.write("caf\udce9.zip")
    assert bench.look() == [True]
    bench.pool.end()
    assert bench.discovery.unloaded() == {}
