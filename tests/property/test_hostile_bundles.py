"""Arbitrary manifests and ZIPs give a bundle or an error, and write nothing outside the folder."""

import contextlib
import io
import json
import stat
import tempfile
import zipfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tykpy.bundles.errors import ArchiveError, ManifestError
from tykpy.bundles.files.archive import unpack
from tykpy.bundles.files.manifest import Manifest, parse_manifest
from tykpy.commands.bundle.convert import convert
from tykpy.commands.lint.lint import lint

FIELDS = st.sampled_from(
    ["file_list", "custom_middleware", "driver", "pre", "post", "auth_check", "response", "name", "timeout", "checksum"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
"""The machine may be busy."""
HEADS = [
    "@Pre\ndef a(request, session, spec):",
    "@Response()\nasync def a(request, response, session, metadata, spec):",
    "@CustomKeyCheck\ndef a(b, c=1, *d, e, **f):",
    "def a(request, session, metadata, /, spec):",
    "class A:",
    "if a:",
    "@Event(",
]
BODIES = [
    "request.object.body, x = y = 1, *z",
    "request.object.url += f'?{a}'",
    "del request.object.headers['a'], session, x[0], x.y",
    "a(request, *b, b=session, **c)",
    "session = request = session.request",
    "global cache; cache[0]: int = 1",
    "return request, *b",
    "match session:\n        case [a, *b] if (a := b.object): pass",
    "for session.rate in a: break",
    "import imp as a, cgi",
    "with a as session.tags: session['a'].x.append(1)",
    "def b(request): return a(request)",
    "x: int",
    "lambda request: request.object.params.pop(0)",
    "response.multivalue_headers.add(**a, key=a)",
    "return ResponseObject()",
    "\x0c",
    "'",
]
"""Statements of all forms that the lint rules look at, and some invalid ones."""
NAMES = st.text(st.sampled_from("ab./\\:é"), min_size=1, max_size=8)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_a_manifest(content: bytes) -> None:
    with contextlib.suppress(ManifestError):
        assert isinstance(parse_manifest(content), Manifest)


@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_arbitrary_json_as_a_manifest(content: object) -> None:
    with contextlib.suppress(ManifestError):
        found = parse_manifest(json.dumps(content).encode())
        assert all(isinstance(name, str) and ".." not in name.split("/") for name in found.file_list)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=20)), max_size=5), st.data())
def test_arbitrary_entries_and_damage_in_a_zip(entries: list[tuple[str, bytes]], data: st.DataObject) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in dict(entries).items():
            opened.writestr(name, content)
    damaged = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "inside", "a.zip")
        source.parent.mkdir()
        source.write_bytes(damaged)
        with contextlib.suppress(ArchiveError):
            unpack(source, Path(folder, "inside", "out"))
        assert [path.name for path in Path(folder).iterdir()] == ["inside"]
        assert {path.name for path in source.parent.iterdir()} <= {"a.zip", "out"}


@given(st.lists(st.tuples(NAMES, st.integers(0, 0xFFFF)), max_size=5))
def test_archives_unpack_to_files_and_folders_only(entries: list[tuple[str, int]]) -> None:
    """Unpacking makes regular files and folders, whatever type an entry's mode claims."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a.zip")
        with zipfile.ZipFile(source, "w") as opened:
            for name, mode in dict(entries).items():
                entry = zipfile.ZipInfo(name)
                entry.external_attr = mode << 16
                opened.writestr(entry, b"../../etc/passwd")
        with contextlib.suppress(ArchiveError):
            for path in unpack(source, Path(folder, "out")).rglob("*"):
                assert stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR)
                assert path.resolve().is_relative_to(Path(folder, "out").resolve())


@given(st.lists(st.tuples(st.sampled_from(HEADS), st.lists(st.sampled_from(BODIES), max_size=4)), max_size=3))
def test_lint_and_convert_take_any_code(functions: list[tuple[str, list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join("\n    ".join([head, *body, "pass"]) for head, body in functions)
        Path(folder, "middleware.py").write_text(text)
        Path(folder, "manifest.json").write_text('{"custom_middleware": {"pre": [{"name": "a"}]}}')
        for finding in [*lint(Path(folder)).findings, *convert(Path(folder)).findings]:
            assert finding.line <= text.count("\n") + 1
            assert finding.message
