"""Every bundle imports its own files first, from anywhere, and never sees tykpy's."""

import builtins
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import subject, write_bundle
from tests.unit.conftest import Serve

EVERYDAY_NAMES = ("broker", "cli", "ipc", "workers", "util")


def header(served: Any, hook: str, bundle: str = "foo") -> str:
    return str(served.run(subject(hook, bundle)).request.set_headers["result"])


def hook_returning(body: str) -> str:
    answer = "    request.add_header('result', str(result))\n    return request, session\n"
    return f"@Pre\ndef H(request, session, spec):\n{body}\n{answer}"


@pytest.mark.parametrize("name", EVERYDAY_NAMES)
def test_two_bundles_have_modules_of_one_name(folder: Path, serve: Serve, name: str) -> None:
    for bundle in ("foo", "bar"):
        lazy = hook_returning(f"    import {name}\n    result = {name}.WHO")
        write_bundle(folder / bundle, {"middleware.py": lazy, f"{name}.py": f"WHO = {bundle!r}"})
    served = serve()
    assert [header(served, "H", bundle) for bundle in ("foo", "bar", "foo")] == ["foo", "bar", "foo"]


WAYS_TO_IMPORT = """
    import pkg.deep.leaf
    result = pkg.deep.leaf.X
---
    import pkg.deep.leaf as leaf
    result = leaf.X
---
    from pkg import deep
    result = deep.Y
---
    from pkg.deep import leaf
    result = leaf.X
---
    from pkg.deep.leaf import X
    result = X
---
    import importlib
    result = importlib.import_module('pkg.deep.leaf').X
---
    from importlib import import_module
    result = import_module('pkg.deep.leaf').X
---
    result = __import__('pkg.deep.leaf').deep.leaf.X
---
    import pkg.relative
    result = pkg.relative.X
---
    import pkg.star
    result = pkg.star.X
---
    names = {}
    exec('from pkg.deep.leaf import X', names)
    result = names['X']
---
    import threading
    found = []
    def run():
        import pkg.deep.leaf as leaf
        found.append(leaf.X)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result = found[0]
---
    import asyncio
    async def run():
        from pkg.deep.leaf import X
        return X
    result = asyncio.run(run())
---
    import importlib.util
    result = 'leaf' if importlib.util.find_spec('pkg.deep.leaf') else ''
---
    import asyncio, importlib
    async def run():
        return await asyncio.to_thread(importlib.import_module, 'pkg.deep.leaf')
    result = asyncio.run(run()).X
"""


@pytest.mark.parametrize("body", WAYS_TO_IMPORT.split("---"))
def test_every_way_to_import(folder: Path, serve: Serve, body: str) -> None:
    files = {
        "middleware.py": hook_returning(body),
        "pkg/__init__.py": "",
        "pkg/deep/__init__.py": "Y = 'leaf'",
        "pkg/deep/leaf.py": "X = 'leaf'",
        "pkg/relative.py": "from .deep.leaf import X\nfrom . import deep",
        "pkg/star.py": "from pkg.deep.leaf import *",
    }
    write_bundle(folder / "foo", files)
    assert header(serve(), "H") == "leaf"


def test_nested_file_is_one_module_by_both_names(folder: Path, serve: Serve) -> None:
    body = "    import util, lib.util\n    result = util is lib.util"
    write_bundle(folder / "foo", {"middleware.py": hook_returning(body), "lib/util.py": ""})
    assert header(serve(), "H") == "True"


def test_a_wrapper_named_like_its_library_gets_the_library(folder: Path, serve: Serve) -> None:
    body = "    import redis\n    result = redis.WRAPS"
    files = {"middleware.py": hook_returning(body), "redis.py": "import redis as real\nWRAPS = real.Redis.__name__"}
    write_bundle(folder / "foo", files)
    assert header(serve(), "H") == "Redis"


def test_a_data_folder_does_not_hide_a_library(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", {"middleware.py": hook_returning("    import json\n    result = json.dumps(1)")})
    (folder / "foo" / "json").mkdir()
    assert header(serve(), "H") == "1"


def test_a_data_folder_is_a_namespace_package(folder: Path, serve: Serve) -> None:
    body = "    from importlib.resources import files\n    result = files('assets').joinpath('x.txt').read_text()"
    write_bundle(folder / "foo", {"middleware.py": hook_returning(body), "assets/x.txt": "text"})
    assert header(serve(), "H") == "text"


BUILTINS = {
    "gettext": ("import gettext\ngettext.install('{name}')\nbuiltins.added = '{name}'", "_(added)"),
    "replaced": ("builtins.print = lambda: '{name}'", "print()"),
    "added twice": ("builtins.added = 'other'\nbuiltins.added = '{name}'", "added"),
}


@pytest.mark.parametrize("way", BUILTINS)
def test_what_a_bundle_adds_to_builtins_is_its_own(folder: Path, serve: Serve, way: str) -> None:
    before = vars(builtins).copy()
    start, result = BUILTINS[way]
    for name in ("foo", "bar"):
        source = f"import builtins\n{start.replace('{name}', name)}\n{hook_returning(f'    result = {result}')}"
        write_bundle(folder / name, {"middleware.py": source})
    write_bundle(folder / "failing", {"middleware.py": "import builtins\nbuiltins.added = 'failing'\nraise ValueError"})
    served = serve()
    assert [header(served, "H", bundle) for bundle in ("foo", "bar", "foo")] == ["foo", "bar", "foo"]
    assert vars(builtins) == before


def test_messages_can_be_pickled(folder: Path, serve: Serve) -> None:
    body = """
    import pickle
    session.alias = 'Ada'
    result = pickle.loads(pickle.dumps(session)).alias"""
    write_bundle(folder / "foo", {"middleware.py": hook_returning(body)})
    assert header(serve(), "H") == "Ada"


def test_bundled_copies_of_gateway_modules_are_ignored(folder: Path, serve: Serve) -> None:
    body = """
    import coprocess_object_pb2, coprocess_session_state_pb2 as state
    from coprocess_mini_request_object_pb2 import MiniRequestObject
    from vendor import coprocess_object_pb2 as vendored
    from gateway import TykGateway
    from tyk.gateway import TykGateway as other
    import tyk.gateway
    result = (type(request.object) is MiniRequestObject and type(session) is state.SessionState
              and vendored is coprocess_object_pb2 and TykGateway is other is tyk.gateway.TykGateway)"""
    broken = "raise RuntimeError('a copy was loaded')"
    files = {
        "middleware.py": hook_returning(body),
        "gateway.py": broken,
        "coprocess_object_pb2.py": broken,
        "vendor/__init__.py": "",
        "vendor/coprocess_object_pb2.py": broken,
        "tyk/__init__.py": broken,
        "tyk/decorators.py": broken,
    }
    write_bundle(folder / "foo", files, driver="python")
    assert header(serve(), "H") == "True"


@pytest.mark.parametrize(
    "line",
    [
        "from session import TykSession as found",
        "from request import TykCoProcessRequest as found",
        "from object import TykCoProcessObject as found",
        "from event import TykEvent as found",
        "from tyk.object import TykCoProcessObject as found",
        "import coprocess_response_object_pb2 as found",
        "from tyk.decorators import Response as found",
    ],
)
def test_top_level_names_of_tyk_exist(folder: Path, serve: Serve, line: str) -> None:
    write_bundle(folder / "foo", {"middleware.py": hook_returning(f"    {line}\n    result = found is not None")})
    assert header(serve(), "H") == "True"


@pytest.mark.parametrize("name", ["session", "coprocess_grpc_pb2", "coprocess_object_pb2_grpc"])
def test_own_modules_go_before_tyks_top_level_names(folder: Path, serve: Serve, name: str) -> None:
    body = hook_returning(f"    import {name}\n    result = {name}.WHO")
    write_bundle(folder / "foo", {"middleware.py": body, f"{name}.py": "WHO = 'own'"})
    assert header(serve(), "H") == "own"


def test_the_star_import_hides_no_name_of_other_libraries(folder: Path, serve: Serve) -> None:
    """Ported bundles were written against what Tyk's own `import *` brings."""
    source = f"""Response = AttributeDict = MiniRequestObject = ReturnOverrides = HookType = Object = 'own'
from tyk.decorators import *
from tyk.event import *
from tyk.object import *
from tyk.request import *
from tyk.session import *
from gateway import *
{hook_returning("    result = {Response, AttributeDict, MiniRequestObject, ReturnOverrides, HookType, Object}")}"""
    write_bundle(folder / "foo", {"middleware.py": source})
    assert header(serve(), "H") == "{'own'}"


def test_single_listed_file_is_loaded_as_in_tyk(folder: Path, serve: Serve) -> None:
    """The `middleware.py` beside it is not loaded."""
    write_bundle(folder / "foo", {"hooks.py": "from tyk.decorators import *\n" + hook_returning("    result = 1")})
    (folder / "foo" / "middleware.py").write_text("raise RuntimeError('not listed')")
    assert header(serve(), "H") == "1"


def test_nothing_is_written_into_the_bundle(folder: Path, serve: Serve) -> None:
    body = "    import pkg.leaf, util\n    result = 1"
    write_bundle(folder / "foo", {"middleware.py": hook_returning(body), "pkg/leaf.py": "", "util.py": ""})
    before = sorted(folder.rglob("*"))
    header(serve(), "H")
    assert sorted(folder.rglob("*")) == before


def test_inspect_and_pickle_work_on_bundle_code(folder: Path, serve: Serve) -> None:
    body = """
    import dataclasses, inspect, os, pickle, typing
    from importlib import resources
    import models
    one = models.Point(1, 'a')
    checks = [
        pickle.loads(pickle.dumps(one)) == one,
        dataclasses.replace(one, x=2).x == 2,
        typing.get_type_hints(models.Point)['x'] is int,
        'class Point' in inspect.getsource(models.Point),
        open(os.path.join(os.path.dirname(__file__), 'data', 'x.txt')).read() == 'text',
        resources.files('data').joinpath('x.txt').read_text() == 'text',
        (resources.files(models.__package__) / 'data' / 'x.txt').read_text() == 'text',
        models.__file__.endswith('models.py'),
    ]
    result = all(checks) or checks""".replace("open(", "models.read(")
    models = """
        from __future__ import annotations
        from dataclasses import dataclass

        def read(path):
            with open(path) as file:
                return FileText(file.read())

        class FileText(str):
            def read(self):
                return self

        @dataclass
        class Point:
            x: int
            name: str
        """
    files = {"middleware.py": hook_returning(body), "models.py": models, "data/keep.py": ""}
    write_bundle(folder / "foo", files, driver="python")
    (folder / "foo" / "data" / "x.txt").write_text("text")
    assert header(serve(), "H") == "True"


def test_import_errors_use_the_plugins_module_names(folder: Path, serve: Serve) -> None:
    body = "    try:\n        import pkg.nope\n    except ModuleNotFoundError as e:\n        result = (e.name, str(e))"
    write_bundle(folder / "foo", {"middleware.py": hook_returning(body), "pkg/__init__.py": ""})
    assert header(serve(), "H") == str(("pkg.nope", "No module named 'pkg.nope'"))


def test_modules_have_the_same_names_in_every_process(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", {"middleware.py": hook_returning("    result = __name__")})
    first = serve()
    name = header(first, "H")
    first.close()
    assert header(serve(), "H") == name


def test_closing_leaves_nothing_in_sys_modules(folder: Path, serve: Serve) -> None:
    before = set(sys.modules)
    write_bundle(folder / "foo", {"middleware.py": hook_returning("    import util\n    result = 1"), "util.py": ""})
    served = serve()
    header(served, "H")
    served.close()
    assert [name for name in set(sys.modules) - before if "foo" in name] == []


def test_importlib_itself_is_not_changed(serve: Serve) -> None:
    serve()
    assert importlib.import_module("json") is sys.modules["json"]
    assert importlib.import_module.__module__ == "importlib"


def test_imports_survive_a_lost_working_directory(
    folder: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = tmp_path / "lost"
    lost.mkdir()
    body = "    import util\n    result = util.WHO"
    write_bundle(folder / "foo", {"middleware.py": hook_returning(body), "util.py": "WHO = 'foo'"})
    monkeypatch.syspath_prepend("relative")
    with monkeypatch.context() as there:
        there.chdir(lost)
        lost.rmdir()
        assert header(serve(), "H") == "foo"


ON_THE_PATH = """
import sys
from pathlib import Path
import util  # as a test of the bundle does
from tykpy.bundles.loading import load_folder

before = list(sys.path)
part = load_folder("foo", Path(sys.argv[1]), "foo")
assert part.error is None, part.error
assert list(part.hooks) == ["H"]
assert sys.path == before and sys.modules["util"] is util
"""


def test_a_bundles_folder_may_be_on_the_path_before(folder: Path) -> None:
    files = {"middleware.py": "import util\n" + hook_returning("    result = util.X"), "util.py": "X = 1"}
    root = write_bundle(folder / "foo", files)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", ON_THE_PATH, str(root)], env=environment, check=True)
