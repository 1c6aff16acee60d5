"""Third-party packages in a folder that a bundle adds to `sys.path`: each bundle has its own copy."""

import hashlib
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import posix_ipc
import pytest

from tests.support.bundles import Served, manifest, subject, write_bundle, write_files
from tests.unit.conftest import Serve
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.imports.importer import ImportSpace

VENDOR = "vendor = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'vendor')"
HEAD = f"import os, sys\n{VENDOR}\n"

WAYS_TO_ADD = {
    "append": "sys.path.append(vendor)",
    "insert": "sys.path.insert(0, vendor)",
    "plus": "sys.path += [vendor]",
    "slice": "sys.path[:0] = [vendor]",
    "from-sys": "from sys import path\npath.append(vendor)",
    "addsitedir": "import site\nsite.addsitedir(vendor)",
    "with-dots": "sys.path.append(os.path.join(vendor, '..', 'vendor', '.'))",
    "resolved": "from pathlib import Path\nsys.path.append(str(Path(__file__).resolve().parent / 'vendor'))",
    "assign": "sys.path = [vendor, *sys.path]",
    "if-missing": "if vendor not in sys.path:\n    sys.path.append(vendor)",
}


def hook(body: str, head: str = "") -> str:
    lines = f"{body}\nrequest.add_header('result', str(result))\nreturn request, session"
    return f"{head}\n@Pre\ndef H(request, session, spec):\n{indent(lines, '    ')}\n"


def result(served: Served, bundle: str = "one") -> str:
    return str(served.run(subject("H", bundle)).request.set_headers["result"])


def write_two(folder: Path, middleware: str, place: str = "vendor/vlib.py") -> None:
    for number, bundle in enumerate(("one", "two"), 1):
        write_bundle(folder / bundle, {"middleware.py": middleware, place: f"VERSION = {number}"})


def is_clean(folder: Path) -> bool:
    below = str(folder.resolve())
    modules = [name for name in sys.modules if name.partition(".")[0] in ("vlib", "vendor", "fast")]
    return modules == [] and [entry for entry in sys.path if os.path.realpath(entry).startswith(below)] == []


@pytest.mark.parametrize("when", ["load", "hook"])
@pytest.mark.parametrize("way", WAYS_TO_ADD)
def test_each_bundle_gets_its_own_copy(folder: Path, serve: Serve, way: str, when: str) -> None:
    add = WAYS_TO_ADD[way]
    body = "import vlib\nresult = vlib.VERSION"
    write_two(folder, hook(body, HEAD + add) if when == "load" else hook(f"{add}\n{body}", HEAD))
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two", "one")] == ["1", "2", "1"]
    served.close()
    assert is_clean(folder)


@pytest.mark.parametrize("place", ["vendor/vlib/__init__.py", "vendor/vlib/version.py"])
def test_packages_and_namespaces(folder: Path, serve: Serve, place: str) -> None:
    name = "vlib.version" if place.endswith("version.py") else "vlib"
    write_two(folder, hook(f"result = {name}.VERSION", f"{HEAD}sys.path.append(vendor)\nimport {name}"), place)
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["1", "2"]
    assert is_clean(folder)


@pytest.mark.parametrize("undo", ["sys.path.remove(vendor)", "sys.path.pop(0)"])
def test_a_folder_may_be_removed_again(folder: Path, serve: Serve, undo: str) -> None:
    before = list(sys.path)
    write_two(folder, hook("result = vlib.VERSION", f"{HEAD}sys.path.insert(0, vendor)\nimport vlib\n{undo}"))
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["1", "2"]
    assert sys.path == before


def test_a_bundle_without_the_package_does_not_get_it(folder: Path, serve: Serve) -> None:
    write_two(folder, hook("result = 1", f"{HEAD}sys.path.append(vendor)\nimport vlib"))
    ways = [
        "import vlib",
        "import importlib; importlib.import_module('vlib')",
        "import pkgutil; pkgutil.resolve_name('vlib')",
    ]
    hooks = "".join(
        f"@Pre\ndef H{n}(request, session, spec):\n    {way}\n    return request, session\n"
        for n, way in enumerate(ways)
    )
    write_bundle(folder / "without", {"middleware.py": hooks})
    served = serve()
    for n in range(len(ways)):
        with pytest.raises(WorkerError, match="No module named 'vlib'"):
            served.run(subject(f"H{n}", "without"))


def test_other_threads_do_not_import_from_the_folder(folder: Path, serve: Serve, tmp_path: Path) -> None:
    """A thread that works for no bundle tries to import while the folder is in sys.path."""
    head = f"{HEAD}sys.path.append(vendor)\nimport tests.unit.bundles.imports.test_vendored as test"
    write_two(folder, hook("import vlib\nresult = found, vlib.VERSION", f"{head}\nfound = test.found_by_a_thread()"))
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["(None, 1)", "(None, 2)"]


def found_by_a_thread() -> object:
    found: list[object] = []

    def run() -> None:
        try:
            import vlib  # type: ignore[import-not-found]
        except ImportError:
            vlib = None
        found.append(vlib)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_package_is_one_module_by_any_name(folder: Path, serve: Serve) -> None:
    """The package counts its imports; the bundle lists its file, and every listed file is imported."""
    files = {
        "middleware.py": hook(
            "import vlib.part, vendor.vlib\nresult = vlib is vendor.vlib, vlib.part.vlib is vlib, len(sys.imports)",
            f"{HEAD}sys.imports = []\nsys.path.append(vendor)\nimport vlib",
        ),
        "vendor/vlib/__init__.py": "import sys\nsys.imports.append(__name__)",
        "vendor/vlib/part.py": "import vlib",
    }
    write_bundle(folder / "one", files)
    try:
        assert result(serve()) == "(True, True, 1)"
    finally:
        del sys.imports  # type: ignore[attr-defined]


def test_files_of_an_added_folder_are_imported_on_demand(folder: Path, serve: Serve) -> None:
    files = {
        "middleware.py": hook("import vlib\nresult = vlib.VERSION", f"{HEAD}sys.path.append(vendor)"),
        "vendor/vlib/__init__.py": "VERSION = 1",
        "vendor/vlib/setup.py": "raise RuntimeError('run by nobody')",
        "vendor/a-script.py": "raise RuntimeError('run by nobody')",
    }
    write_bundle(folder / "one", files)
    assert result(serve()) == "1"


NAMESPACES = {
    "PEP 420": None,
    "pkgutil": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)",
    "pkg_resources": "try:\n    __import__('pkg_resources').declare_namespace(__name__)\nexcept ImportError:\n    pass",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", NAMESPACES)
def test_a_namespace_in_several_folders(folder: Path, serve: Serve, kind: str) -> None:
    head = f"{HEAD}sys.path += [vendor, vendor + '2']\nimport ns.sub.a, ns.sub.b"
    for bundle in ("one", "two"):
        files = {"vendor/ns/sub/a.py": f"V = 'a-{bundle}'", "vendor2/ns/sub/b.py": f"V = 'b-{bundle}'"}
        init = NAMESPACES[kind]
        if init is not None:
            files |= {f"{top}/{name}/__init__.py": init for top in ("vendor", "vendor2") for name in ("ns", "ns/sub")}
        write_bundle(folder / bundle, {"middleware.py": hook("result = ns.sub.a.V, ns.sub.b.V", head), **files})
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == [
        "('a-one', 'b-one')",
        "('a-two', 'b-two')",
    ]


def test_packages_in_a_zip(folder: Path, serve: Serve) -> None:
    head = f"{HEAD}sys.path.insert(0, vendor + '.zip')\nimport vlib.part"
    for number, bundle in enumerate(("one", "two"), 1):
        write_bundle(folder / bundle, {"middleware.py": hook("result = vlib.part.VERSION", head)})
        with zipfile.ZipFile(folder / bundle / "vendor.zip", "w") as opened:
            opened.writestr("vlib/__init__.py", "import helper\n")
            opened.writestr("vlib/part.py", "import vlib, helper\nVERSION = helper.VERSION")
            opened.writestr("helper.py", f"VERSION = {number}")
    write_bundle(folder / "without", {"middleware.py": hook("import vlib\nresult = 1")})
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["1", "2"]
    with pytest.raises(WorkerError, match="No module named 'vlib'"):
        result(served, "without")
    assert is_clean(folder)


def write_metadata(folder: Path, name: str, *files: str) -> None:
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_packages_that_pip_put_beside_the_middleware(folder: Path, serve: Serve) -> None:
    files = {
        "middleware.py": hook("import vlib, single\nresult = vlib.VERSION, single.VERSION"),
        "vlib/__init__.py": "VERSION = 1",
        "vlib/setup.py": "raise RuntimeError('run by nobody')",
        "single.py": "VERSION = 2",
    }
    write_bundle(folder / "one", files)
    write_metadata(folder / "one", "vlib", "vlib/__init__.py", "vlib/setup.py", "single.py")
    assert result(serve()) == "(1, 2)"


def test_a_pth_file_adds_further_folders(folder: Path, serve: Serve) -> None:
    write_two(
        folder, hook("import vlib\nresult = vlib.VERSION", f"{HEAD}import site\nsite.addsitedir(vendor)"), "lib/vlib.py"
    )
    for bundle in ("one", "two"):
        (folder / bundle / "vendor").mkdir()
        (folder / bundle / "vendor" / "more.pth").write_text("../lib\n")
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["1", "2"]
    assert is_clean(folder)


def test_a_signed_bundle_imports_what_was_signed(tmp_path: Path) -> None:
    write_files(tmp_path, {"vendor/vlib.py": "VERSION = 1", "vendor/other.py": "VERSION = 1"})
    signed = {"vendor/vlib.py": hashlib.sha256(b"VERSION = 1").digest()}
    space = ImportSpace("tykpy_signed", "signed", tmp_path, ["vendor/vlib.py"], sealed=signed)
    space.open()
    try:
        sys.path.append(str(tmp_path / "vendor"))
        assert space.import_name("vlib").VERSION == 1
        with pytest.raises(ImportError, match=r"vendor/other\.py is not in file_list"):
            space.import_name("other")
    finally:
        space.close()


def test_folders_whose_names_have_dots(folder: Path, serve: Serve) -> None:
    head = f"{HEAD}sys.path.append(os.path.join(vendor, 'python3.11', 'site-packages'))\nimport vlib"
    write_bundle(folder / "one", {"middleware.py": hook("result = vlib.VERSION", head)})
    write_bundle(folder / "two", {"middleware.py": hook("result = vlib.VERSION", head)})
    for number, bundle in enumerate(("one", "two"), 1):
        place = folder / bundle / "vendor" / "python3.11" / "site-packages"
        place.mkdir(parents=True)
        (place / "vlib.py").write_text(f"VERSION = {number}")
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["1", "2"]


def test_a_bundle_folder_behind_a_symbolic_link(folder: Path, serve: Serve, tmp_path: Path) -> None:
    head = HEAD.replace("abspath", "realpath") + "sys.path.append(vendor)\nimport vlib"
    write_two(tmp_path / "real", hook("result = vlib.VERSION", head))
    for bundle in ("one", "two"):
        (folder / bundle).symlink_to(tmp_path / "real" / bundle)
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["1", "2"]
    assert is_clean(tmp_path / "real")


def test_single_files_share_the_folders_beside_them(folder: Path, serve: Serve) -> None:
    head = "from tyk.decorators import *\nimport os, sys\nhere = os.path.dirname(os.path.abspath(__file__))\n"
    (folder / "vendor").mkdir()
    (folder / "vendor" / "vlib.py").write_text("seen = []")
    body = "vlib.seen.append(1)\nresult = len(vlib.seen)"
    for name in ("one", "two"):
        head_of = f"{head}sys.path.append(os.path.join(here, 'vendor'))\nimport vlib"
        (folder / f"{name}.py").write_text(hook(body, head_of))
    served = serve()
    assert [result(served, bundle) for bundle in ("one.py", "two.py", "one.py")] == ["1", "1", "2"]


def test_bundled_version_goes_before_installed_package(folder: Path, serve: Serve) -> None:
    head = f"{HEAD}sys.path.append(vendor)\nimport hpack, json"
    files = {"vendor/hpack/__init__.py": "VERSION = 'own'", "vendor/json/__init__.py": "VERSION = 'own'"}
    body = "result = getattr(hpack, 'VERSION', 'installed'), getattr(json, 'VERSION', 'standard')"
    write_bundle(folder / "one", {"middleware.py": hook(body, head), **files})
    write_bundle(folder / "two", {"middleware.py": hook(body, "import hpack, json")})
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == [
        "('own', 'standard')",
        "('installed', 'standard')",
    ]


def test_namespaces_join_the_bundles_parts_and_the_installed(folder: Path, serve: Serve) -> None:
    """The bundle contains `google`, with a part of its own and a protobuf that must not be loaded."""
    head = (
        f"{HEAD}sys.path.append(vendor)\nimport google.own, google.protobuf.json_format\n"
        "import google.protobuf as protobuf\nfrom google.protobuf.message import Message"
    )
    body = "result = google.own.VERSION, isinstance(session, Message), google.protobuf is protobuf"
    files = {
        "vendor/google/own.py": "VERSION = 1",
        "vendor/google/protobuf/__init__.py": "raise RuntimeError('a copy was loaded')",
        "vendor/google/protobuf/message.py": "raise RuntimeError('a copy was loaded')",
    }
    write_bundle(folder / "one", {"middleware.py": hook(body, head), **files})
    assert result(serve()) == "(1, True, True)"


def test_versions_come_from_the_bundles_metadata(folder: Path, serve: Serve) -> None:
    body = "import vlib\nresult = vlib.VERSION, version('vlib')"
    head = f"{HEAD}sys.path.append(vendor)\nfrom importlib.metadata import version"
    package = "from importlib.metadata import version\nVERSION = version(__name__)"
    for number, bundle in enumerate(("one", "two"), 1):
        write_bundle(folder / bundle, {"middleware.py": hook(body, head), "vendor/vlib/__init__.py": package})
        metadata = folder / bundle / "vendor" / f"vlib-{number}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vlib\nVersion: {number}\n")
    write_bundle(folder / "without", {"middleware.py": hook("result = version('vlib')", head)})
    served = serve()
    assert [result(served, bundle) for bundle in ("one", "two")] == ["('1', '1')", "('2', '2')"]
    with pytest.raises(WorkerError, match="PackageNotFoundError"):
        result(served, "without")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("way", ["pkgutil.iter_modules([vendor])", "pkgutil.walk_packages([vendor])"])
def test_plugins_in_a_folder_can_be_listed_and_loaded(folder: Path, serve: Serve, way: str) -> None:
    body = f"result = [m.module_finder.find_spec(m.name).loader.load_module(m.name).VERSION for m in {way}]"
    write_two(folder, hook(body, f"{HEAD}import pkgutil\nsys.path.append(vendor)"))
    try:
        assert result(serve()) == "[1]"
    finally:
        sys.modules.pop("vlib", None)


def test_a_failed_load_leaves_nothing_behind(folder: Path, serve: Serve) -> None:
    write_two(folder, f"{HEAD}sys.path.append(vendor)\nimport vlib\nraise RuntimeError('on purpose')")
    served = serve()
    assert ["on purpose" in str(bundle.error) for bundle in served.store.loaded()] == [True, True]
    assert is_clean(folder)


class TestCompiled:
    """Write a package with a real compiled part: a copy of posix_ipc."""

    @pytest.fixture(autouse=True)
    def bundles(self, folder: Path) -> None:
        head = f"{HEAD}sys.path.append(vendor)\nimport helper, fast"
        body = "from fast import posix_ipc\nresult = fast.VERSION, helper.VERSION, posix_ipc.__name__ in sys.modules"
        for number, bundle in enumerate(("one", "two"), 1):
            files = {"vendor/fast/__init__.py": f"import helper\nVERSION = {number}"}
            files["vendor/helper.py"] = f"VERSION = {number}"
            write_bundle(folder / bundle, {"middleware.py": hook(body, head), **files})
            shutil.copy(str(posix_ipc.__file__), folder / bundle / "vendor" / "fast")
        write_bundle(folder / "without", {"middleware.py": hook("import fast\nresult = fast")})

    @pytest.fixture(autouse=True)
    def forget(self, serve: Serve) -> Iterator[None]:
        yield
        for name in [name for name in sys.modules if name.partition(".")[0] == "fast"]:
            del sys.modules[name]

    def move_beside_the_middleware(self, folder: Path) -> None:
        for bundle in ("one", "two"):
            (folder / bundle / "manifest.json").write_text(manifest(["middleware.py"]))
            for place in (folder / bundle / "vendor").iterdir():
                place.rename(folder / bundle / place.name)

    def test_compiled_package_is_loaded_once_with_a_warning(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        served = serve()
        assert [result(served, bundle) for bundle in ("one", "two")] == ["(1, 1, True)", "(1, 2, True)"]
        told = [record.getMessage() for record in caplog.records if "compiled parts" in record.getMessage()]
        assert len(told) == 1
        assert told[0].startswith("bundle two: fast has compiled parts, which a process loads once: instead of")
        assert "it gets that of bundle one" in told[0]

    def test_compiled_package_beside_middleware_is_loaded_once(
        self, folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.move_beside_the_middleware(folder)
        for bundle in ("one", "two"):
            write_metadata(folder / bundle, "fast", "fast/__init__.py", "fast/posix_ipc.so")
        served = serve()
        assert [result(served, bundle) for bundle in ("one", "two")] == ["(1, 1, True)", "(1, 2, True)"]
        assert "it gets that of bundle one" in caplog.text

    def test_own_compiled_module_is_loaded_per_bundle(self, folder: Path, serve: Serve) -> None:
        self.move_beside_the_middleware(folder)
        served = serve()
        assert [result(served, bundle) for bundle in ("one", "two")] == ["(1, 1, True)", "(2, 2, True)"]

    def test_compiled_package_is_invisible_to_other_bundles(self, serve: Serve) -> None:
        with pytest.raises(WorkerError, match="No module named 'fast'"):
            result(serve(), "without")
