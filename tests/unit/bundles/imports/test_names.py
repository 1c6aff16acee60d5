"""Names that libraries resolve are the bundle's own modules, while it loads and in its hooks."""

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest

from tests.support.bundles import Served, subject, write_bundle
from tests.unit.conftest import Serve

FILES = {
    "util.py": "VALUE = {name!r}\nclass Thing:\n    owner = {name!r}\n",
    "pkg/__init__.py": "",
    "pkg/sub/__init__.py": "",
    "pkg/sub/fmt.py": """
        import logging
        class Formatter(logging.Formatter):
            owner = {name!r}
        """,
    "helpers/__init__.py": "",
    "helpers/data.txt": "{name}",
}

BY_STRING = {
    "dictConfig": """
        import logging.config
        config = {"version": 1, "disable_existing_loggers": False, "formatters": {"f": {"()": "pkg.sub.fmt.Formatter"}}}
        config["handlers"] = {"h": {"class": "logging.NullHandler", "formatter": "f"}}
        config["loggers"] = {"audit": {"handlers": ["h"]}}
        logging.config.dictConfig(config)
        result = logging.getLogger("audit").handlers[0].formatter.owner
        """,
    "fileConfig": """
        import io, logging.config
        text = '''
            [loggers]
            keys=root
            [handlers]
            keys=
            [formatters]
            keys=f
            [logger_root]
            handlers=
            [formatter_f]
            class=pkg.sub.fmt.Formatter
            '''
        parser = __import__("configparser").ConfigParser()
        parser.read_string("\\n".join(map(str.strip, text.splitlines())))
        result = logging.config._create_formatters(parser)["f"].owner
        """,
    "get_data": "import pkgutil\nresult = pkgutil.get_data('helpers', 'data.txt').decode()",
    "resolve_name": "import pkgutil\nresult = pkgutil.resolve_name('util:Thing.owner')",
    "resolve_dotted_name": "import pkgutil\nresult = pkgutil.resolve_name('pkg.sub.fmt.Formatter').owner",
    "patch": """
        import util
        from unittest import mock
        with mock.patch("util.VALUE", new=util.VALUE * 2):
            result = util.VALUE[len(util.VALUE) // 2:]
        """,
    "patch.object of a string": """
        from unittest.mock import patch
        with patch("pkg.sub.fmt.Formatter") as patched:
            import pkg.sub.fmt
            assert pkg.sub.fmt.Formatter is patched
        result = pkg.sub.fmt.Formatter.owner
        """,
    "__import__ in a library": "result = next(map(__import__, ['util'])).VALUE",
    "import_module in a library": "import toolbox\nresult = toolbox.import_module('util').VALUE",
    "dotted import_module": "import toolbox\nresult = toolbox.import_module('pkg.sub.fmt').Formatter.owner",
    "text executed by a library": "import toolbox\nresult = toolbox.executed('import util')['util'].VALUE",
    "text of an interactive shell": """
        import code
        shell = code.InteractiveInterpreter({})
        shell.runsource("import util")
        result = shell.locals["util"].VALUE
        """,
    "find_spec in a library": """
        import toolbox, os
        spec = toolbox.find_spec("pkg.sub.fmt")
        result = toolbox.import_module("util").VALUE if os.path.isfile(spec.origin) else None
        """,
    "pickle of another process": "import pickle\nresult = pickle.loads(b'cutil\\nThing\\n.').owner",
    "pickle from a file": """
        import io
        from pickle import load
        result = load(io.BytesIO(b'cpkg.sub.fmt\\nFormatter\\n.')).owner
        """,
    "Unpickler": "import io, pickle\nresult = pickle.Unpickler(io.BytesIO(b'cutil\\nThing\\n.')).load().owner",
    "pydoc.locate": "import pydoc\nresult = pydoc.locate('util.Thing').owner",
    "runpy": "import runpy\nresult = runpy.run_module('util')['VALUE']",
    "entry point": """
        from importlib.metadata import EntryPoint
        result = EntryPoint("n", "pkg.sub.fmt:Formatter", "g").load().owner
        """,
    "file loaded by its path": """
        import importlib.util, os
        path = os.path.join(os.path.dirname(__file__), "by_path.py")
        spec = importlib.util.spec_from_file_location("by_path", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        result = module.VALUE
        """,
    "PathFinder": """
        import importlib.util, os
        from importlib.machinery import PathFinder
        spec = PathFinder.find_spec("by_path", [os.path.dirname(__file__)])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        result = module.VALUE
        """,
    "type hints": """
        global util
        import typing, util
        def annotated(thing: "util.Thing"): ...
        result = typing.get_type_hints(annotated)["thing"].owner
        """,
}

ONLY_IN_HOOKS = {
    "asyncio.to_thread": """
        import asyncio, pkgutil
        async def resolve():
            return await asyncio.to_thread(pkgutil.resolve_name, "util:VALUE")
        result = asyncio.run(resolve())
        """,
    "a callback of the event loop": """
        import asyncio, pkgutil
        async def resolve():
            found = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: found.set_result(pkgutil.resolve_name("util:VALUE")))
            return await found
        result = asyncio.run(resolve())
        """,
}

ONLY_WHILE_LOADING = {
    "sys.modules": "import sys, util\nresult = sys.modules['util'].VALUE",
    "sys.modules after __import__": "import toolbox\nresult = toolbox.imported('pkg.sub.fmt').Formatter.owner",
    "Python's own Unpickler": """
        import io, pickle
        result = pickle._Unpickler(io.BytesIO(b'cutil\\nThing\\n.')).load().owner
        """,
    "pickle in a library": "import toolbox\nresult = toolbox.loads(b'cutil\\nThing\\n.').owner",
    "vars": "import sys, util\nresult = vars(sys.modules['util'])['VALUE']",
    "own module": "import sys\nVALUE = __import__('util').VALUE\nresult = sys.modules['middleware'].VALUE",
}

TOOLBOX = """
    import pickle, sys
    from importlib import import_module
    from importlib.util import find_spec
    loads = pickle.loads

    def imported(name):
        __import__(name)
        return sys.modules[name]

    def executed(text):
        names = {}
        exec(text, names)
        return names

    def optional():
        try:
            import util
        except ImportError:
            return None
        return util
    """


@pytest.fixture(autouse=True)
def toolbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed library that resolves names."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "toolbox.py").write_text(dedent(TOOLBOX))
    monkeypatch.syspath_prepend(library)
    yield
    for name in ("toolbox", "by_path"):
        sys.modules.pop(name, None)


def write(folder: Path, name: str, body: str, in_hook: bool) -> None:
    body = dedent(body)
    files = {file: dedent(text).replace("{name}", name).replace("{name!r}", repr(name)) for file, text in FILES.items()}
    files["by_path.py"] = "from util import VALUE"
    hook = f"{indent(body, '    ') if in_hook else ''}\n    request.add_header('result', str(result))\n"
    start = "" if in_hook else body
    files["middleware.py"] = f"{start}\n@Pre\ndef H(request, session, spec):\n{hook}    return request, session\n"
    write_bundle(folder / name, files, driver="python")


def results(served: Served, *bundles: str) -> list[str]:
    return [served.run(subject("H", bundle)).request.set_headers["result"] for bundle in bundles]


def own_names() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in ("util", "pkg", "helpers", "middleware")]


@pytest.mark.parametrize("in_hook", [False, True], ids=["load", "hook"])
@pytest.mark.parametrize("way", BY_STRING)
def test_libraries_find_the_bundles_own_modules(folder: Path, serve: Serve, way: str, in_hook: bool) -> None:
    for name in ("one", "two"):
        write(folder, name, BY_STRING[way], in_hook)
    assert results(serve(), "one", "two", "one") == ["one", "two", "one"]
    assert own_names() == []


@pytest.mark.parametrize("way", ONLY_IN_HOOKS)
def test_libraries_find_them_in_other_threads_of_a_hook(folder: Path, serve: Serve, way: str) -> None:
    for name in ("one", "two"):
        write(folder, name, ONLY_IN_HOOKS[way], in_hook=True)
    assert results(serve(), "one", "two") == ["one", "two"]


@pytest.mark.parametrize("way", ONLY_WHILE_LOADING)
def test_own_names_are_in_sys_modules_while_a_bundle_loads(folder: Path, serve: Serve, way: str) -> None:
    for name in ("one", "two"):
        write(folder, name, ONLY_WHILE_LOADING[way], in_hook=False)
    assert results(serve(), "one", "two") == ["one", "two"]
    assert own_names() == []


@pytest.mark.parametrize(
    "body",
    [
        "import toolbox\nresult = toolbox.import_module('util')",
        "import toolbox\nresult = toolbox.import_module('pkg.sub.fmt')",
        "import pkgutil\nresult = pkgutil.resolve_name('util')",
    ],
)
def test_modules_of_other_bundles_are_not_found(folder: Path, serve: Serve, body: str) -> None:
    write(folder, "one", "import util, pkg.sub.fmt\nimport sys\nresult = sys.modules['util'].VALUE", in_hook=False)
    write_bundle(
        folder / "two", {"middleware.py": f"try:\n{indent(body, '    ')}\nexcept ImportError as e: found = e.name"}
    )
    served = serve()
    problems = [bundle.error for bundle in served.store.loaded()]
    assert problems == [None, None]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("util")


@pytest.mark.parametrize("name", ["tykpy.redisclient.address", "tykpy.workers.storage.redis"])
def test_libraries_import_lazily_from_any_caller(
    folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One of these libraries is tykpy's own storage."""
    for module in ("tykpy.redisclient", name):
        monkeypatch.delitem(sys.modules, module, raising=False)
    write(folder, "one", f"import toolbox\nresult = toolbox.import_module({name!r}).__name__", in_hook=True)
    assert results(serve(), "one") == [name]


def test_libraries_prefer_installed_modules(folder: Path, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "library" / "installed.py").write_text("VALUE = 'installed'")
    body = "import installed, toolbox\nresult = installed.VALUE, toolbox.import_module('installed').VALUE"
    write(folder, "one", body, in_hook=False)
    (folder / "one" / "installed.py").write_text("VALUE = 'own'")
    try:
        assert results(serve(), "one") == ["('own', 'installed')"]
    finally:
        sys.modules.pop("installed", None)


def test_libraries_never_bind_modules_of_a_bundle(folder: Path, serve: Serve, tmp_path: Path) -> None:
    optional = "try:\n    import util\nexcept ImportError:\n    util = None\n"
    (tmp_path / "library" / "binding.py").write_text(optional)
    write(folder, "one", "import util, binding\nresult = binding.util", in_hook=False)
    try:
        assert results(serve(), "one") == ["None"]
    finally:
        sys.modules.pop("binding", None)


def test_modules_of_a_loading_bundle_are_hidden_from_threads(folder: Path, serve: Serve) -> None:
    body = "import sys, util\nimport tests.unit.bundles.imports.test_names as test\nresult = test.seen_by_a_thread()"
    write(folder, "one", body, in_hook=False)
    assert results(serve(), "one") == ["['AttributeError', 'ModuleNotFoundError']"]


def seen_by_a_thread() -> list[str]:
    seen: list[str] = []

    def run() -> None:
        for look in (lambda: sys.modules["util"].VALUE, lambda: importlib.import_module("util")):
            try:
                look()
            except (AttributeError, ImportError) as error:
                seen.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen


def test_failed_load_removes_its_names(folder: Path, serve: Serve) -> None:
    write(folder, "one", "import util, pkg.sub.fmt\nraise RuntimeError('on purpose')", in_hook=False)
    served = serve()
    assert "on purpose" in str(served.store.loaded()[0].error)
    assert own_names() == []


def test_import_errors_hide_our_frames(folder: Path, serve: Serve) -> None:
    body = """
        import traceback
        try:
            import broken
        except ValueError:
            result = traceback.format_exc()
        """
    write(folder, "one", body, in_hook=True)
    (folder / "one" / "broken.py").write_text("raise ValueError")
    text = results(serve(), "one")[0]
    assert "broken.py" in text
    assert "names.py" not in text
