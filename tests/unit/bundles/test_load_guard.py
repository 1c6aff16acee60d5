"""What a bundle changes for the whole process while it is loaded is undone or reported; what is its own stays."""

import ast
import builtins
import fcntl
import io
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import IMPORTS, write_files, write_zip
from tykpy.bundles.errors import BundleError
from tykpy.bundles.load_guard import LoadGuard
from tykpy.bundles.load_observer import LoadObserver
from tykpy.bundles.registry import BundleStore
from tykpy.ipc.exits import WorkerExit

SOUND = IMPORTS + "@Pre\ndef {}(request, session, spec):\n    return request, session\n"
DAMAGE: dict[str, tuple[str, Callable[[], object]]] = {
    "working directory": ("import os\nos.chdir('/')", os.getcwd),
    "working directory that is gone": (
        "import os, tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder)\nos.rmdir(folder)",
        os.getcwd,
    ),
    "umask": ("import os\nos.umask(0o777)", lambda: os.umask(0o22) and os.umask(0o22)),
    "recursion limit": (
        "import inspect, sys\nsys.setrecursionlimit(len(inspect.stack()) + 60)",
        sys.getrecursionlimit,
    ),
    "path": ("import sys\nsys.path.clear()", lambda: set(sys.path)),
    "another path": ("import sys\nsys.path = ['/nowhere']", lambda: set(sys.path) - {"/nowhere"}),
    "meta path": ("import sys\ndel sys.meta_path[-1]", lambda: len(sys.meta_path)),
    "no meta path": ("import sys\nsys.meta_path = None", lambda: len(sys.meta_path)),
    "path hooks": ("import sys\nsys.path_hooks.clear()", lambda: len(sys.path_hooks)),
    "builtin replaced": ("import builtins\nbuiltins.print = None", lambda: builtins.print),
    "builtin removed": ("import builtins\ndel builtins.print", lambda: builtins.print),
    "limits": (
        "from resource import *\nsetrlimit(RLIMIT_NOFILE, (9, getrlimit(RLIMIT_NOFILE)[1]))",
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    ),
    "timer": (
        "import signal\nsignal.setitimer(signal.ITIMER_PROF, 100)",
        lambda: signal.getitimer(signal.ITIMER_PROF),
    ),
    "finder that fails": (
        "import sys\nclass Finder:\n    def find_spec(self, *_): raise SystemExit\nsys.meta_path.insert(0, Finder())",
        lambda: sys.meta_path[0],
    ),
    "module replaced": ("import sys\nsys.modules['json'] = sys", lambda: sys.modules.get("json")),
    "module forbidden": ("import sys\nsys.modules['no_such_module'] = None", lambda: "no_such_module" in sys.modules),
    "module removed": ("import sys\ndel sys.modules['tyk.decorators']", lambda: sys.modules.get("tyk.decorators")),
}
"""The code of a bundle, and a function that shows its damage."""


CLOSED = """
import os
from tykpy.telemetry.log import Source, open_log
from tykpy.bundles.load_guard import LoadGuard

open_log(Source("worker", 1))
with LoadGuard().around():
    os.closerange(0, 3)
assert not os.read(0, 1)
os.system("echo of a child")
"""


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Iterator[BundleStore]:
    made, mask, limit = BundleStore([folder], tmp_path / "unpacked"), os.umask(0o22), sys.getrecursionlimit()
    os.umask(mask)
    yield made
    os.umask(mask)
    sys.setrecursionlimit(limit)
    for bundle in made.loaded():
        bundle.close()


@pytest.mark.parametrize(("source", "shown"), DAMAGE.values(), ids=DAMAGE)
def test_damage_to_the_process_is_undone(
    folder: Path, store: BundleStore, source: str, shown: Callable[[], object]
) -> None:
    write_files(folder, {"a.py": SOUND.format("A")})
    store.load_all()
    before = shown()
    for bundle in store.loaded():
        bundle.close()
    write_files(folder, {"b.py": IMPORTS + source, "c.py": SOUND.format("C")})
    store.load_all()
    assert shown() == before
    assert [hook.name for bundle in store.loaded() for hook in bundle.hooks.values()] == ["A", "C"]


def test_harmless_additions_of_a_bundle_stay(folder: Path, store: BundleStore) -> None:
    limit = sys.getrecursionlimit()
    write_files(
        folder, {"a.py": "import sys\nsys.setrecursionlimit(sys.getrecursionlimit() + 1000)\n" + SOUND.format("A")}
    )
    store.load_all()
    assert sys.getrecursionlimit() == limit + 1000


def test_a_timer_that_a_bundle_handles_stays(folder: Path, store: BundleStore) -> None:
    write_files(
        folder,
        {"a.py": "import signal\nsignal.signal(signal.SIGPROF, print)\nsignal.setitimer(signal.ITIMER_PROF, 99)\n"},
    )
    try:
        store.load_all()
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 0
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who may not raise limits again")
def test_process_with_irreversible_limits_ends() -> None:
    child = os.fork()
    if not child:
        os.setuid(65534)
        with LoadGuard().around():
            resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == WorkerExit.LIMITS


@pytest.mark.parametrize("module", [json, os, os.path, io, pathlib.Path])
def test_process_that_cannot_load_bundles_ends(module: Any) -> None:
    name = {json: "loads", os: "stat", os.path: "join", io: "open", pathlib.Path: "stat"}[module]
    child = os.fork()
    if not child:
        with LoadGuard().around():
            setattr(module, name, None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == WorkerExit.LOADING


@pytest.mark.parametrize("archives", [True, False])
@pytest.mark.parametrize(("module", "name"), [(zipfile, "ZipExtFile"), (zlib, "decompressobj"), (struct, "unpack")])
def test_zips_are_tried_where_bundles_are_zips(module: Any, name: str, archives: bool) -> None:
    child = os.fork()
    if not child:
        with LoadGuard().around(archives=archives):
            setattr(module, name, None)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (WorkerExit.LOADING if archives else 0)


@pytest.mark.parametrize(
    ("module", "name"),
    [(zipfile, "ZipFile"), (shutil, "rmtree"), (shutil, "copyfileobj"), (tempfile, "mkdtemp"), (fcntl, "flock")],
)
def test_zips_are_unpacked_by_functions_of_before(
    folder: Path, store: BundleStore, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    write_files(folder, {"a.py": f"import {module.__name__} as m\nm.{name} = None\n" + SOUND.format("A")})
    write_zip(folder / "b.zip", {"middleware.py": SOUND.format("B")}, pre=[{"name": "B"}])
    monkeypatch.setattr(module, name, getattr(module, name))
    store.load_all()
    assert [hook.name for bundle in store.loaded() for hook in bundle.hooks.values()] == ["A", "B"]
    monkeypatch.undo()
    store.close()


def test_a_process_that_is_no_worker_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle is broken, and what can be restored is. The next bundle is not to blame."""

    def refuse(code: WorkerExit) -> None:
        raise BundleError(f"ends: {code.name}")

    monkeypatch.setattr(ast, "parse", ast.parse)
    before, umask = ast.parse, os.umask(0o022)
    os.umask(umask)
    write_files(
        folder,
        {
            "a.py": "import ast, os\nos.umask(0)\nast.parse = None\n" + SOUND.format("A"),
            "b.py": SOUND.format("B"),
        },
    )
    store = BundleStore([folder], tmp_path / "unpacked", observer=LoadObserver(guard=LoadGuard(end=refuse)))
    store.load_all()
    ast.parse = before
    first, second = (str(bundle.parts[0].error) for bundle in store.loaded())
    assert first == f"{folder}/a.py: ends: LOADING"
    assert "ends" not in second
    assert os.umask(umask) == umask


def test_functions_that_a_bundle_wraps_stay(folder: Path, store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads
    monkeypatch.setattr(json, "loads", before)
    source = "import json\nloads = json.loads\njson.loads = lambda *args, **kwargs: loads(*args, **kwargs)\n"
    write_files(folder, {"a.py": source + SOUND.format("A"), "b.py": SOUND.format("B")})
    store.load_all()
    assert json.loads is not before
    assert [hook.name for bundle in store.loaded() for hook in bundle.hooks.values()] == ["A", "B"]


def load_nothing(guard: LoadGuard) -> None:
    with guard.around():
        pass


def test_each_replaced_function_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = LoadGuard()
    load_nothing(guard)
    assert guard.replaced() == []
    monkeypatch.setattr(select, "select", lambda *_: None)
    monkeypatch.setattr(threading, "Lock", lambda: None)
    assert set(guard.replaced()) == {"select.select", "threading.Lock"}
    monkeypatch.delattr(time, "sleep")
    assert guard.replaced() == ["time.sleep"]
    assert guard.replaced() == []


def test_no_bundle_is_blamed_for_earlier_replacements(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = LoadGuard()
    monkeypatch.setattr(select, "select", lambda *_: None)
    load_nothing(guard)
    load_nothing(guard)
    assert guard.replaced() == []


def test_closed_standard_streams_are_opened_again() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", CLOSED], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"of a child\n"
