"""`tykpy bundle verify` and `list`, for good and bad bundles."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import IMPORTS, write_bundle, write_zip
from tests.support.keys import private_pem, public_pem, rsa_key
from tykpy.bundles.files.signature import PrivateKey
from tykpy.bundles.files.verification import INDEX_NAME
from tykpy.commands.bundle.build import build
from tykpy.commands.bundle.listing import list_bundle
from tykpy.commands.bundle.verify import verify
from tykpy.commands.errors import CommandError

HOOK = "@Pre\ndef hook(request, session, spec):\n    return request, session\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "mine", {"middleware.py": HOOK, "lib/x.py": "X = 1\n"}, pre=[{"name": "hook"}])


@pytest.fixture
def signed(source: Path, tmp_path: Path) -> Path:
    return build(source, tmp_path / "mine.zip", private_pem(tmp_path)).output


def said(bundle: Path, key: Path | None = None) -> list[str]:
    return [str(check) for check in verify(bundle, key)]


def failed(bundle: Path, key: Path | None = None) -> list[str]:
    return [check.text for check in verify(bundle, key) if check.passed is False]


def test_a_good_bundle_passes_everything(signed: Path, tmp_path: Path) -> None:
    checks = said(signed, public_pem(tmp_path))
    assert [check[:17] for check in checks] == [
        "ok     entries: 5",
        "ok     files: 3 i",
        "ok     checksum: ",
        "ok     signature:",
    ]


def test_signature_is_not_checked_without_a_key(signed: Path) -> None:
    assert "note   signature: there, not checked without --public-key" in said(signed)


def test_unsealed_bundle_fails(source: Path, tmp_path: Path) -> None:
    assert failed(source) == [
        "checksum: there is none, so a gateway refuses the bundle; `tykpy bundle build` writes it"
    ]
    assert "note   signature: none" in said(source)
    assert "signature: the bundle is not signed" in failed(source, public_pem(tmp_path))[1]


def test_another_key_fails(signed: Path, tmp_path: Path) -> None:
    assert failed(signed, public_pem(tmp_path, name="theirs")) == [
        "signature: the signature is not one of these files by this key"
    ]


def test_extra_file_fails_a_signed_bundle(signed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(signed, "a") as opened:
        opened.writestr("json.py", "")
    assert failed(signed) == []
    assert "note   files: json.py is not in file_list" in said(signed)
    assert failed(signed, public_pem(tmp_path)) == ["signature: not in file_list, so nobody signed it: json.py"]


Altered = dict[str, bytes]
"""A bundle's files, in the order of its file_list."""


def add_empty_module(files: Altered) -> Altered:
    return {"json.py": b"", **files}


def add_empty_file_at_the_end(files: Altered) -> Altered:
    return {**files, "lib/__init__.py": b""}


def cut_in_two(files: Altered) -> Altered:
    code = files["middleware.py"]
    return {
        "middleware.py": code[:20],
        "rest.py": code[20:],
        **{k: v for k, v in files.items() if k != "middleware.py"},
    }


def join_two(files: Altered) -> Altered:
    whole = files["middleware.py"] + files["lib/x.py"]
    return {"middleware.py": whole, **{k: v for k, v in files.items() if k not in ("middleware.py", "lib/x.py")}}


def rename_a_file(files: Altered) -> Altered:
    return {{"lib/x.py": "hmac.py"}.get(name, name): content for name, content in files.items()}


def join_all(files: Altered) -> Altered:
    return {"middleware.py": b"".join(files.values())}


def split_index(files: Altered) -> Altered:
    index = files[INDEX_NAME]
    others = {name: content for name, content in files.items() if name != INDEX_NAME}
    return {**others, "data.txt": index[:5], INDEX_NAME: index[5:]}


def write_altered(root: Path, files: Altered, manifest: dict[str, Any]) -> Path:
    """Write a bundle with the bytes, and so the checksum and signature, of the original."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "manifest.json").write_text(json.dumps({**manifest, "file_list": list(files)}))
    return root


@pytest.mark.parametrize(
    "alter",
    [add_empty_module, add_empty_file_at_the_end, cut_in_two, join_two, rename_a_file, join_all, split_index],
)
def test_names_and_boundaries_of_files_are_signed(
    signed: Path, tmp_path: Path, alter: Callable[[Altered], Altered]
) -> None:
    with zipfile.ZipFile(signed) as opened:
        manifest = json.loads(opened.read("manifest.json"))
        files = {name: opened.read(name) for name in manifest["file_list"]}
    assert failed(write_altered(tmp_path / "same", files, manifest), public_pem(tmp_path)) == []
    altered = write_altered(tmp_path / "altered", alter(files), manifest)
    assert failed(altered) == []
    assert failed(altered, public_pem(tmp_path)) == [
        f"signature: the names or sizes of the files in file_list are not those that were signed ({INDEX_NAME})"
    ]


def signed_by_gateway_tools(root: Path, files: Altered) -> Path:
    """Write a bundle with the signature of a gateway's own tools, of the contents alone."""
    whole = b"".join(files.values())
    seal = {
        "checksum": hashlib.md5(whole).hexdigest(),
        "signature": PrivateKey(rsa_key("ours")).sign(hashlib.sha256(whole).digest()),
        "custom_middleware": {"driver": "grpc", "pre": [{"name": "hook"}]},
    }
    return write_altered(root, files, seal)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("json.py", "would hide the module json"),
        ("email/__init__.py", "would hide the module email"),
        ("gateway.py", "would hide the module gateway"),
        ("tyk/decorators.py", "would hide the module tyk"),
        ("ssl.cpython-311-x86_64-linux-gnu.so", "would hide the module ssl"),
        ("check.py", "is empty"),
    ],
)
def test_suspicious_files_without_an_index_are_refused(tmp_path: Path, name: str, problem: str) -> None:
    files = {"middleware.py": (IMPORTS + HOOK).encode(), "lib/__init__.py": b""}
    assert failed(signed_by_gateway_tools(tmp_path / "good", files), public_pem(tmp_path)) == []
    altered = signed_by_gateway_tools(tmp_path / "altered", {**files, name: b""})
    (found,) = failed(altered, public_pem(tmp_path))
    assert found.startswith(f"signature: {name} {problem}")
    assert "tykpy bundle build --key" in found


def test_verify_explains_what_a_gateways_signature_covers(tmp_path: Path) -> None:
    bundle = signed_by_gateway_tools(tmp_path / "theirs", {"middleware.py": (IMPORTS + HOOK).encode()})
    assert any("for these bytes; not for the files' names" in check for check in said(bundle, public_pem(tmp_path)))


def test_an_altered_file_fails_its_checksum(source: Path, signed: Path, tmp_path: Path) -> None:
    root = tmp_path / "unpacked"
    with zipfile.ZipFile(signed) as opened:
        opened.extractall(root)
    (root / "lib" / "x.py").write_text("X = 2\n")
    checksum, signature = failed(root, public_pem(tmp_path))
    assert "but the files of file_list have" in checksum
    assert "not one of these files" in signature


def test_missing_file_ends_the_checks(signed: Path, source: Path) -> None:
    (source / "lib" / "x.py").unlink()
    assert failed(source) == ["files: lib/x.py is in file_list and cannot be read: No such file or directory"]


@pytest.mark.parametrize("create", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["FIFO", "device"])
def test_what_is_no_file_ends_the_checks(signed: Path, source: Path, create: Callable[[Path], None]) -> None:
    """The reading of either would never end."""
    (source / "lib" / "x.py").unlink()
    create(source / "lib" / "x.py")
    assert failed(source) == ["files: lib/x.py is in file_list and cannot be read: not a regular file"]


def test_unreadable_manifest_ends_the_checks(source: Path) -> None:
    (source / "manifest.json").write_text("{")
    (problem,) = failed(source)
    assert "not JSON" in problem
    (source / "manifest.json").unlink()
    (problem,) = failed(source)
    assert "there is no manifest.json in it" in problem


def test_zip_that_leaves_its_folder_ends_the_checks(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
        opened.writestr("../evil.py", "")
    assert failed(tmp_path / "evil.zip") == ["entries: entry '../evil.py' leaves the bundle's folder"]
    assert not (tmp_path / "evil.py").exists()


def test_a_zip_that_a_gateway_cannot_unpack_is_noted(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "flat.zip", {"lib/x.py": "X = 1\n"})
    assert any("lib/x.py comes before an entry lib/" in check for check in said(path))


def test_path_without_a_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no such file or folder"):
        said(tmp_path / "none")
    with pytest.raises(CommandError, match="No such file"):
        said(tmp_path, tmp_path / "none.pem")


def test_list_shows_facts_files_and_hooks(signed: Path) -> None:
    listing = list_bundle(signed)
    assert [name for name, _ in listing.facts] == ["driver", "checksum", "signature"]
    assert dict(listing.facts)["signature"] == "there"
    assert listing.files == [("middleware.py", str(len(IMPORTS + HOOK))), ("lib/x.py", "6"), (INDEX_NAME, "67")]
    assert listing.hooks == [("Pre", "hook", "")]


def test_list_shows_an_unfinished_bundle(source: Path) -> None:
    fields = json.loads((source / "manifest.json").read_text())
    fields["custom_middleware"]["post"] = [{"name": "late", "disabled": True, "raw_body_only": True, "timeout": 0.5}]
    (source / "manifest.json").write_text(json.dumps({**fields, "file_list": ["gone.py"]}))
    listing = list_bundle(source)
    assert listing.files == [
        ("gone.py", "missing"),
        ("lib/x.py", "not in file_list"),
        ("middleware.py", "not in file_list"),
    ]
    assert listing.hooks[1] == ("Post", "late", "disabled, raw_body_only, timeout 0.5 s")


def test_list_without_a_bundle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(CommandError, match="not a ZIP"):
        list_bundle(tmp_path / "x.zip")
