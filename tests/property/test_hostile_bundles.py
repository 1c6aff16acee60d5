"""Arbitrary manifests and ZIPs: an error or a bundle, never anything else, and nothing outside the folder."""

import contextlib
import io
import json
import tempfile
import zipfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.archive import unpack
from workers.errors import ArchiveError, ManifestError
from workers.manifest import Manifest, parse_manifest

FIELDS = st.sampled_from(
    ["file_list", "custom_middleware", "driver", "pre", "post", "auth_check", "response", "name", "timeout", "checksum"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy."""
NAMES = st.text(st.sampled_from("ab./\\:é"), min_size=1, max_size=8)


@UNHURRIED
@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_a_manifest(content: bytes) -> None:
    with contextlib.suppress(ManifestError):
        assert isinstance(parse_manifest(content), Manifest)


@UNHURRIED
@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_arbitrary_json_as_a_manifest(content: object) -> None:
    with contextlib.suppress(ManifestError):
        found = parse_manifest(json.dumps(content).encode())
        assert all(isinstance(name, str) and ".." not in name.split("/") for name in found.file_list)


@UNHURRIED
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
