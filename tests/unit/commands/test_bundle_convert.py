"""`tykpy bundle convert` changes the driver, not the code, and reports the differences."""

import json
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.bundles import write_bundle
from tests.support.keys import private_pem, public_pem
from tykpy.bundles.files.archive import unpack
from tykpy.commands.bundle.build import build
from tykpy.commands.bundle.convert import convert
from tykpy.commands.bundle.verify import verify
from tykpy.commands.errors import CommandError

HOOK = "@Hook\ndef hook(request, session, spec):\n    return request, session\n"


def embedded(tmp_path: Path, text: str = HOOK, hook: str = "hook") -> Path:
    files = {"middleware.py": dedent(text), "lib/x.py": "X = 1\n"}
    return write_bundle(tmp_path / "old", files, driver="python", pre=[{"name": hook}])


def driver_of(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["custom_middleware"]["driver"])


def rules(tmp_path: Path, text: str) -> list[tuple[str, int]]:
    found = convert(embedded(tmp_path, HOOK + dedent(text))).findings
    return [(finding.rule, finding.line - 1 - HOOK.count("\n")) for finding in found]


def test_convert_into_a_folder(tmp_path: Path) -> None:
    source = embedded(tmp_path)
    (source / "README").write_text("not in file_list")
    assert convert(source, tmp_path / "new").findings == []
    assert (driver_of(source), driver_of(tmp_path / "new")) == ("python", "grpc")
    for name in ("middleware.py", "lib/x.py", "README"):
        assert (tmp_path / "new" / name).read_bytes() == (source / name).read_bytes()


def test_convert_into_a_zip_keeps_the_signature_valid(tmp_path: Path) -> None:
    signed = build(embedded(tmp_path), tmp_path / "old.zip", private_pem(tmp_path)).output
    convert(signed, tmp_path / "new.zip")
    assert driver_of(unpack(tmp_path / "new.zip", tmp_path / "unpacked")) == "grpc"
    assert all(check.passed for check in verify(tmp_path / "new.zip", public_pem(tmp_path)))


def test_without_an_output_nothing_is_written(tmp_path: Path) -> None:
    convert(embedded(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source = embedded(tmp_path)
    with pytest.raises(CommandError, match="is there already"):
        convert(source, source)
    with pytest.raises(CommandError, match="no such file or folder"):
        convert(tmp_path / "none", tmp_path / "new")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("import imp\n", "removed-module"),
        ("from distutils.version import LooseVersion\n", "removed-module"),
        ("import cgi, os\n", "removed-module"),
        ("from threading import Lock\nlock = Lock()\n", "lock"),
        ("import threading\nthreading.Thread(target=print).start()\n", "thread"),
        ("cache = {}\ndef fill(key):\n    cache[key] = 1\n", "shared-state"),
        ("cache: dict = dict()\ndef fill(key):\n    del cache[key]\n", "shared-state"),
        ("seen = []\ndef note(key):\n    seen.append(key)\n", "shared-state"),
        ("count = 0\ndef grow():\n    global count\n    count += 1\n", "shared-state"),
        ("tyk.trigger_event('a', '{}')\n", "trigger-event"),
        ("@Event\ndef on_event(event, spec): pass\n", "event"),
        ("@Hook\nasync def later(request, session, spec): return request, session\n", "async"),
        ("@Hook\ndef few(request): pass\n", "hook-arguments"),
        ("@Hook\ndef new(request, session, spec):\n    return request, make()\n", "returned-object"),
        ("def hook(:\n", "syntax"),
    ],
)
def test_differences_are_reported(tmp_path: Path, text: str, rule: str) -> None:
    found = rules(tmp_path, text)
    assert [name for name, _ in found] == [rule]
    assert found[0][1] >= 1 or rule == "syntax"


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nfrom . import imp\n",
        "table = {}\ndef look(key):\n    return table.get(key)\n",
        "cache = {}\ndef own(cache):\n    cache['a'] = 1\n",
        "def own():\n    cache = {}\n    cache['a'] = 1\n",
        "import imp  # tykpy: ignore[removed-module]\n",
    ],
)
def test_unchanged_behaviour_is_not_reported(tmp_path: Path, text: str) -> None:
    assert rules(tmp_path, text) == []


def test_unchecked_parts_are_reported(tmp_path: Path) -> None:
    source = embedded(tmp_path)
    (source / "vendor").mkdir()
    (source / "vendor" / "theirs.py").write_text("import imp\ncache = {}\ndef fill(key):\n    cache[key] = 1\n")
    (source / "vendor" / "fast.cpython-37m-x86_64-linux-gnu.so").write_bytes(b"")
    (source / "broken.py").write_text("print 'Python 2'\n")
    report = convert(source)
    assert [(Path(one.file).name, one.rule) for one in report.findings] == [
        ("broken.py", "syntax"),
        ("fast.cpython-37m-x86_64-linux-gnu.so", "cannot-load"),
        ("theirs.py", "removed-module"),
    ]
    assert report.files == 2
    assert report.unchecked[:3] == (
        "1 file that cannot be parsed",
        "1 compiled file",
        "1 vendored file beyond whether they load",
    )


def test_undefined_listed_hook_is_reported(tmp_path: Path) -> None:
    (finding,) = convert(embedded(tmp_path, hook="gone")).findings
    assert (finding.rule, finding.file) == ("hook-missing", f"{tmp_path}/old/manifest.json")


def test_undecorated_listed_function_is_reported(tmp_path: Path) -> None:
    source = embedded(tmp_path, "def plain(request, session, spec):\n    return request, session\n", hook="plain")
    (finding,) = convert(source).findings
    assert (finding.rule, finding.line) == ("hook-undecorated", 2)
    assert "write @Pre (or @Hook) above it" in finding.message
