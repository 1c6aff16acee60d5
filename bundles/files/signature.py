"""RSA signatures of bundles, as the gateway checks them: PKCS#1 v1.5 over SHA-256, in base64.

Needs the `cryptography` package, which is imported only to sign or verify.
"""

import base64
import binascii
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tykpy.bundles.errors import KeyFileError, SignatureError
from tykpy.ipc.text import why_unread

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

MAX_KEY_SIZE: Final = 1 << 16
"""In bytes; the PEM of a key of 16,384 bits has a fifth of that."""


class PublicKey:
    """Checks signatures of bundles."""

    def __init__(self, key: "rsa.RSAPublicKey") -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> "PublicKey":
        """Read a PEM file, PKCS#1 or PKIX.

        Raises KeyFileError if it holds no RSA public key, or `cryptography` is missing.
        """
        return cls(_read_key(path, "public", "PKCS#1 or PKIX"))

    def check(self, digest: bytes, signature: str) -> None:
        """Check a base64 signature of a SHA-256 digest.

        Raises SignatureError if it was made with another key, or for other content.
        """
        try:
            self._key.verify(_decoded(signature), digest, *_scheme())
        except _crypto("exceptions").InvalidSignature as error:
            raise SignatureError("the signature is not one of these files by this key") from error


class PrivateKey:
    """Signs bundles."""

    def __init__(self, key: "rsa.RSAPrivateKey") -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> "PrivateKey":
        """Read a PEM file, PKCS#1 or PKCS#8, without a passphrase.

        Raises KeyFileError if it holds no RSA private key, or `cryptography` is missing.
        """
        return cls(_read_key(path, "private", "PKCS#1 or PKCS#8", password=None))

    def sign(self, digest: bytes) -> str:
        """Return the base64 signature of a SHA-256 digest."""
        return base64.b64encode(self._key.sign(digest, *_scheme())).decode()


def _read_key(path: Path, kind: str, forms: str, **options: Any) -> Any:
    """Read an RSA key of a kind, "public" or "private", from a PEM file. Raises KeyFileError."""
    content, serialization = _read_file(path), _crypto("hazmat.primitives.serialization")
    try:
        key = getattr(serialization, f"load_pem_{kind}_key")(content, **options)
    except TypeError as error:  # raised by `cryptography` where a passphrase is needed
        raise KeyFileError(f"{path}: is encrypted; decrypt it first: openssl pkey -in {path}") from error
    except (ValueError, _crypto("exceptions").UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: not a {kind} key in PEM ({forms})") from error
    if not isinstance(key, getattr(_crypto("hazmat.primitives.asymmetric.rsa"), f"RSA{kind.capitalize()}Key")):
        raise KeyFileError(f"{path}: holds another kind of key than RSA")
    return key


def _read_file(path: Path) -> bytes:
    """Read a key's file. Raises KeyFileError if it cannot be read, or is too large for a key."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_SIZE + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {why_unread(error)}") from error
    if len(content) > MAX_KEY_SIZE:
        raise KeyFileError(f"{path}: too big for a key")
    return content


def _decoded(signature: str) -> bytes:
    # Go's base64 skips line ends, and nothing else.
    text = signature.replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"the signature is not base64: {error}") from error


def _scheme() -> tuple[Any, Any]:
    asymmetric, hashes = "hazmat.primitives.asymmetric", _crypto("hazmat.primitives.hashes")
    return _crypto(f"{asymmetric}.padding").PKCS1v15(), _crypto(f"{asymmetric}.utils").Prehashed(hashes.SHA256())


def _crypto(module: str) -> Any:
    """Import a part of `cryptography`. Raises KeyFileError if it is missing."""
    try:
        return importlib.import_module(f"cryptography.{module}")
    except ModuleNotFoundError as error:
        raise KeyFileError("keys need the `cryptography` package: pip install 'tykpy[signing]'") from error
