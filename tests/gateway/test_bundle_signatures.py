"""Bundles signed by tykpy pass Go's crypto/rsa and archive/zip, and the other way round."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.broker import TYKPY
from tests.support.bundles import write_bundle
from tests.support.gateway.go_gateway import go_program
from tests.support.keys import PRIVATE_FORMS, PUBLIC_FORMS, private_pem, public_pem

HOOK = "@Pre\ndef hook(request, session, spec):\n    return request, session\n"
Program = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def bundlecrypto() -> str:
    """Build the Go program that verifies and signs."""
    return go_program("bundlecrypto")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a bundle with a sub-folder and a binary file."""
    root = write_bundle(tmp_path / "mine", {"middleware.py": HOOK, "lib/sub/x.py": "X = 'ü'\n"}, pre=[{"name": "hook"}])
    (root / "data.bin").write_bytes(bytes(range(256)))
    fields = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**fields, "file_list": [*fields["file_list"], "data.bin"]}))
    return root


def run(*command: object) -> Program:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("private", PRIVATE_FORMS)
@pytest.mark.parametrize("public", PUBLIC_FORMS)
@pytest.mark.parametrize("compress", [[], ["--compress"]], ids=["stored", "compressed"])
def test_signed_here_verified_by_go(
    bundlecrypto: str, folder: Path, tmp_path: Path, private: str, public: str, compress: list[str]
) -> None:
    output = tmp_path / "mine.zip"
    built = run(TYKPY, "bundle", "build", folder, "-o", output, "--key", private_pem(tmp_path, private), *compress)
    assert built.returncode == 0, built.stderr
    verified = run(bundlecrypto, "verify", "--key", public_pem(tmp_path, public), output)
    assert verified.returncode == 0, verified.stderr


def test_go_refuses_another_key(bundlecrypto: str, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.zip"
    run(TYKPY, "bundle", "build", folder, "-o", output, "--key", private_pem(tmp_path, name="theirs"))
    verified = run(bundlecrypto, "verify", "--key", public_pem(tmp_path), output)
    assert (verified.returncode, "verification error" in verified.stderr) == (1, True)


@pytest.mark.parametrize("private", PRIVATE_FORMS)
@pytest.mark.parametrize("public", PUBLIC_FORMS)
def test_signed_by_go_verified_here(bundlecrypto: str, folder: Path, tmp_path: Path, private: str, public: str) -> None:
    signed = run(bundlecrypto, "sign", "--key", private_pem(tmp_path, private), folder)
    assert signed.returncode == 0, signed.stderr
    packed = shutil.make_archive(str(tmp_path / "theirs"), "zip", folder)
    for bundle in (folder, packed):
        verified = run(TYKPY, "bundle", "verify", bundle, "--public-key", public_pem(tmp_path, public))
        assert verified.returncode == 0, verified.stdout
        assert "ok     signature: by the key's owner, for these bytes" in verified.stdout


def test_signed_by_go_and_altered_is_refused_here(bundlecrypto: str, folder: Path, tmp_path: Path) -> None:
    run(bundlecrypto, "sign", "--key", private_pem(tmp_path), folder)
    (folder / "data.bin").write_bytes(bytes(range(255, -1, -1)))
    verified = run(TYKPY, "bundle", "verify", folder, "--public-key", public_pem(tmp_path))
    assert verified.returncode == 1
    assert "FAILED checksum" in verified.stdout
    assert "FAILED signature" in verified.stdout


def test_both_compute_the_same_checksum_and_signature(bundlecrypto: str, folder: Path, tmp_path: Path) -> None:
    key = private_pem(tmp_path)
    run(TYKPY, "bundle", "build", folder, "-o", tmp_path / "mine.zip", "--key", key)
    shutil.unpack_archive(tmp_path / "mine.zip", tmp_path / "ours")
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    run(bundlecrypto, "sign", "--key", key, tmp_path / "theirs")
    ours = json.loads((tmp_path / "ours" / "manifest.json").read_text())
    theirs = json.loads((tmp_path / "theirs" / "manifest.json").read_text())
    assert (ours["checksum"], ours["signature"]) == (theirs["checksum"], theirs["signature"])
