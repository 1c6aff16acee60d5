"""`tykpy bundle build`: packed files, reported problems, and identical bytes every time."""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import write_bundle, write_files
from tests.support.keys import private_pem, public_key
from tykpy.bundles.files.archive import unpack
from tykpy.bundles.files.verification import INDEX_NAME
from tykpy.commands.bundle.build import Built, build
from tykpy.commands.errors import CommandError

HOOK = "@Pre\ndef hook(request, session, spec):\n    return request, session\n"
FILES = {"middleware.py": HOOK, "lib/sub/x.py": "X = 1\n", "lib/y.py": "Y = 2\n"}
GRPC = {"driver": "grpc", "pre": [{"name": "hook"}]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "mine", FILES, pre=[{"name": "hook"}])


def set_fields(source: Path, **fields: Any) -> None:
    path = source / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def packed(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def manifest_in(built: Built) -> Mapping[str, Any]:
    fields = json.loads(packed(built.output)["manifest.json"])
    assert isinstance(fields, dict)
    return fields


def problems(source: Path, key: Path | None = None) -> str:
    output = source.parent / "out.zip"
    with pytest.raises(CommandError) as caught:
        build(source, output, key)
    assert not output.exists()
    return str(caught.value)


def test_files_follow_their_folders_in_listed_order(source: Path, tmp_path: Path) -> None:
    built = build(source, tmp_path / "out.zip")
    assert list(packed(built.output)) == [
        "lib/",
        "lib/sub/",
        "manifest.json",
        "middleware.py",
        "lib/sub/x.py",
        "lib/y.py",
    ]
    root = unpack(built.output, tmp_path / "unpacked")
    assert (root / "lib" / "sub" / "x.py").read_text() == "X = 1\n"


def test_checksum_covers_files_in_listed_order(source: Path, tmp_path: Path) -> None:
    built = build(source, tmp_path / "out.zip")
    whole = b"".join((source / name).read_bytes() for name in FILES)
    assert built.checksum == manifest_in(built)["checksum"] == hashlib.md5(whole).hexdigest()
    assert (built.signed, "signature" in manifest_in(built)) == (False, False)


def test_signature_covers_the_same_bytes(source: Path, tmp_path: Path) -> None:
    built = build(source, tmp_path / "out.zip", private_pem(tmp_path))
    content = packed(built.output)
    whole = b"".join(content[name] for name in manifest_in(built)["file_list"])
    assert built.signed
    public_key().check(hashlib.sha256(whole).digest(), manifest_in(built)["signature"])


def test_a_signed_bundle_ends_with_an_index_of_its_files(source: Path, tmp_path: Path) -> None:
    built = build(source, tmp_path / "out.zip", private_pem(tmp_path))
    sizes = {name: len(content) for name, content in FILES.items()}
    sizes["middleware.py"] = (source / "middleware.py").stat().st_size
    assert manifest_in(built)["file_list"] == [*sizes, INDEX_NAME]
    assert json.loads(packed(built.output)[INDEX_NAME]) == {"files": sizes, "tykpy_index": 1}


@pytest.mark.parametrize("signs", [True, False])
def test_a_build_replaces_an_index_that_is_out_of_date(source: Path, tmp_path: Path, signs: bool) -> None:
    signed = unpack(build(source, tmp_path / "out.zip", private_pem(tmp_path)).output, tmp_path / "unpacked")
    (signed / "lib" / "y.py").write_text("Y = 2 + 2\n")
    built = build(signed, tmp_path / "again.zip", private_pem(tmp_path) if signs else None)
    index = packed(built.output).get(INDEX_NAME)
    assert (None if index is None else json.loads(index)["files"]["lib/y.py"]) == (10 if signs else None)


@pytest.mark.parametrize("compress", [False, True])
def test_two_builds_are_the_same_bytes(tmp_path: Path, compress: bool) -> None:
    builds = []
    for number, (umask, time) in enumerate([(0o022, 1_000_000_000), (0o077, 1_700_000_000)]):
        before = os.umask(umask)
        try:
            source = write_bundle(tmp_path / f"copy{number}", FILES, pre=[{"name": "hook"}])
            for path in source.rglob("*"):
                os.utime(path, (time, time))
            built = build(source, tmp_path / f"{number}.zip", private_pem(tmp_path), compress=compress)
        finally:
            os.umask(before)
        builds.append(built.output.read_bytes())
    assert builds[0] == builds[1]


def test_entries_have_the_modes_of_files_and_folders(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(source, tmp_path / "out.zip").output) as opened:
        modes = {entry.filename: entry.external_attr >> 16 for entry in opened.infolist()}
    assert modes["lib/"] == stat.S_IFDIR | 0o755
    assert modes["lib/y.py"] == stat.S_IFREG | 0o644


def test_compressing_makes_it_smaller(source: Path, tmp_path: Path) -> None:
    (source / "lib" / "y.py").write_text("Y = 2\n" * 1000)
    plain = build(source, tmp_path / "plain.zip").output.stat().st_size
    assert build(source, tmp_path / "small.zip", compress=True).output.stat().st_size < plain


def test_a_missing_file_list_is_filled_in(source: Path, tmp_path: Path) -> None:
    set_fields(source, file_list=[])
    write_files(source, {".git/config": "", "__pycache__/x.pyc": "", "lib/.hidden": "", "data.json": "{}"})
    build(source, source / "mine.zip")
    built = build(source, source / "mine.zip")  # the ZIP of before is no part of it
    assert built.files == ("data.json", "lib/sub/x.py", "lib/y.py", "middleware.py")
    assert tuple(manifest_in(built)["file_list"]) == built.files


def test_unknown_fields_are_preserved(source: Path, tmp_path: Path) -> None:
    extractor = {"extract_from": "header", "extract_with": "value", "extractor_config": {"header_name": "X"}}
    set_fields(source, custom_middleware={**GRPC, "id_extractor": extractor}, note="grüße")
    fields = manifest_in(build(source, tmp_path / "out.zip"))
    assert fields["custom_middleware"]["id_extractor"] == extractor
    assert fields["note"] == "grüße"


def test_the_source_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    build(source, tmp_path / "out.zip", private_pem(tmp_path))
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_all_missing_fields_are_reported_at_once(source: Path) -> None:
    set_fields(
        source, custom_middleware={"auth_check": {"disabled": False}, "id_extractor": {"extract_from": "header"}}
    )
    lines = problems(source).splitlines()
    assert [line.partition("manifest.json: ")[2] for line in lines] == [
        'custom_middleware.driver is missing; write "grpc"',
        "custom_middleware.auth_check.name is missing",
        "custom_middleware.id_extractor.extract_with is missing",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"custom_middleware": None}, "custom_middleware is missing"),
        ({"custom_middleware": {"driver": "otto"}}, '"otto" is not Python'),
        ({"custom_middleware": {"driver": "grpc", "pre": [{}]}}, "pre[0].name: the hook's function name is missing"),
        ({"custom_middleware": {"driver": "grpc", "id_extractor": 1}}, "id_extractor is not an object"),
        ({"custom_middleware": {"driver": "grpc", "auth_check": "A"}}, "auth_check: Expected `object`"),
        (
            {"file_list": ["middleware.py", "gone.py", "lib"]},
            "gone.py is in file_list and cannot be read: No such file",
        ),
        ({"file_list": ["middleware.py", "lib"]}, "lib is in file_list and cannot be read: Is a directory"),
        ({"file_list": ["../x.py"]}, "is not a file inside the bundle"),
        ({"file_list": ["middleware.py", "./middleware.py"]}, "file_list has these twice: middleware.py"),
        ({"file_list": ["middleware.py", "manifest.json"]}, "file_list has the manifest"),
    ],
)
def test_unbuildable_bundles_are_explained(source: Path, fields: dict[str, Any], said: str) -> None:
    set_fields(source, **fields)
    assert said in problems(source)


def test_a_link_out_of_the_folder_is_not_packed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (source / "lib" / "y.py").unlink()
    (source / "lib" / "y.py").symlink_to(tmp_path / "secret")
    assert "lib/y.py is a link that leaves the folder" in problems(source)


@pytest.mark.parametrize("name", ["manifest.json", "lib/y.py"])
@pytest.mark.parametrize(
    ("replace", "said"),
    [
        (os.mkfifo, "cannot be read: not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), ""),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links"),
    ],
    ids=["FIFO", "device", "loop"],
)
def test_what_is_no_file_is_not_packed(source: Path, name: str, replace: Callable[[Path], None], said: str) -> None:
    (source / name).unlink()
    replace(source / name)
    problem = problems(source)
    assert name in problem
    assert said in problem


def test_missing_manifest_folder_or_files_are_errors(source: Path, tmp_path: Path) -> None:
    assert "no such folder" in problems(tmp_path / "none")
    (source / "manifest.json").write_text("{")
    assert "not JSON" in problems(source)
    (source / "manifest.json").unlink()
    assert "manifest.json: cannot be read: No such file" in problems(source)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.json").write_text(json.dumps({"custom_middleware": GRPC}))
    assert "there is no file to pack" in problems(tmp_path / "empty")


def test_an_extractor_that_reads_nothing_is_reported(source: Path) -> None:
    extractor = {"extract_from": "body", "extract_with": "value", "extractor_config": {"param_name": "id"}}
    set_fields(source, custom_middleware={"driver": "grpc", "pre": [{"name": "A"}], "id_extractor": extractor})
    assert "takes all clients for one" in problems(source)


def test_unusable_key_is_an_error(source: Path, tmp_path: Path) -> None:
    assert "No such file" in problems(source, tmp_path / "none.pem")


def test_bundle_that_workers_would_refuse_is_not_written(source: Path, tmp_path: Path) -> None:
    (source / "lib" / "y.py").write_bytes(bytes(4 << 20))
    with pytest.raises(CommandError, match="workers would refuse it"):
        build(source, tmp_path / "out.zip", compress=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_suspicious_manifests_get_remarks(source: Path, tmp_path: Path) -> None:
    (source / "unlisted.py").write_text("")
    set_fields(source, custom_middleware={"driver": "python"}, checksum="0" * 32, signature="YWJj")
    remarks = build(source, tmp_path / "out.zip").remarks
    assert [remark.partition(":")[0].partition(",")[0] for remark in remarks] == [
        'the driver is "python"',
        "no hook is listed (pre",
        "unlisted.py is not in file_list",
        "the manifest's signature was for other files and is left out; sign with --key",
    ]


def test_files_for_developers_get_no_remark(source: Path, tmp_path: Path) -> None:
    for name in (
        "README.md",
        "pyproject.toml",
        "requirements-dev.txt",
        "uv.lock",
        "mine.tykpy",
        "conftest.py",
        "tests/cases/a.json",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    (source / "tests.json").write_text("")
    (source / "lib" / "README.py").write_text("")
    assert [remark.partition(" ")[0] for remark in build(source, tmp_path / "out.zip").remarks] == [
        "lib/README.py", "tests.json",
    ]  # fmt: skip


def test_valid_signature_is_preserved(source: Path, tmp_path: Path) -> None:
    signed = unpack(build(source, tmp_path / "out.zip", private_pem(tmp_path)).output, tmp_path / "unpacked")
    again = build(signed, tmp_path / "again.zip")
    assert again.signed
    assert again.output.read_bytes() == (tmp_path / "out.zip").read_bytes()
