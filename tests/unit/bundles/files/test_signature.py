"""RSA signatures: every form of key, and a reason for every refusal."""

import hashlib
import sys
from pathlib import Path

import pytest

from tests.support.keys import PRIVATE_FORMS, PUBLIC_FORMS, other_kind, private_pem, public_key, public_pem
from tykpy.bundles.errors import KeyFileError, SignatureError
from tykpy.bundles.files.signature import MAX_KEY_SIZE, PrivateKey, PublicKey

DIGEST = hashlib.sha256(b"the content").digest()


@pytest.mark.parametrize("private", PRIVATE_FORMS)
@pytest.mark.parametrize("public", PUBLIC_FORMS)
def test_public_key_accepts_its_private_keys_signature(tmp_path: Path, private: str, public: str) -> None:
    signature = PrivateKey.read(private_pem(tmp_path, private)).sign(DIGEST)
    PublicKey.read(public_pem(tmp_path, public)).check(DIGEST, signature)


def test_signatures_are_deterministic(tmp_path: Path) -> None:
    key = PrivateKey.read(private_pem(tmp_path))
    assert key.sign(DIGEST) == key.sign(DIGEST)


def test_line_ends_in_a_signature_are_ignored(tmp_path: Path) -> None:
    signature = PrivateKey.read(private_pem(tmp_path)).sign(DIGEST)
    public_key().check(DIGEST, f"{signature[:64]}\r\n{signature[64:]}\n")


def test_another_keys_signature_is_refused(tmp_path: Path) -> None:
    signature = PrivateKey.read(private_pem(tmp_path, name="theirs")).sign(DIGEST)
    with pytest.raises(SignatureError, match="not one of these files by this key"):
        public_key().check(DIGEST, signature)


def test_signature_of_other_content_is_refused(tmp_path: Path) -> None:
    signature = PrivateKey.read(private_pem(tmp_path)).sign(DIGEST)
    with pytest.raises(SignatureError, match="not one of these files"):
        public_key().check(hashlib.sha256(b"other content").digest(), signature)


@pytest.mark.parametrize("signature", ["not base64!", "abc", "YWJj ZGVm", "é"])
def test_signature_that_is_not_base64_is_refused(signature: str) -> None:
    with pytest.raises(SignatureError, match="not base64"):
        public_key().check(DIGEST, signature)


def test_keys_other_than_rsa_are_refused(tmp_path: Path) -> None:
    private, public = other_kind(tmp_path)
    with pytest.raises(KeyFileError, match="another kind of key than RSA"):
        PrivateKey.read(private)
    with pytest.raises(KeyFileError, match="another kind of key than RSA"):
        PublicKey.read(public)


def test_an_encrypted_key_says_how_to_decrypt_it(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="is encrypted; decrypt it first: openssl pkey"):
        PrivateKey.read(private_pem(tmp_path, passphrase=b"secret"))


def test_public_and_private_keys_are_not_confused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="not a public key"):
        PublicKey.read(private_pem(tmp_path))
    with pytest.raises(KeyFileError, match="not a private key"):
        PrivateKey.read(public_pem(tmp_path))


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----\n"])
def test_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="not a public key in PEM"):
        PublicKey.read(path)
    with pytest.raises(KeyFileError, match="not a private key in PEM"):
        PrivateKey.read(path)


def test_unreadable_key_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        PublicKey.read(tmp_path / "none.pem")
    (tmp_path / "big.pem").write_bytes(bytes(MAX_KEY_SIZE + 1))
    with pytest.raises(KeyFileError, match="too big for a key"):
        PublicKey.read(tmp_path / "big.pem")


def test_missing_cryptography_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = public_pem(tmp_path)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    with pytest.raises(KeyFileError, match=r"pip install 'tykpy\[signing\]'"):
        PublicKey.read(path)
