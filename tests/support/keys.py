"""RSA keys for tests, in every form of PEM that gateways and people use."""

from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tykpy.bundles.files.signature import PublicKey

BITS: Final = 2048
PRIVATE_FORMS: Final = {"pkcs1": PrivateFormat.TraditionalOpenSSL, "pkcs8": PrivateFormat.PKCS8}
PUBLIC_FORMS: Final = {"pkcs1": PublicFormat.PKCS1, "pkix": PublicFormat.SubjectPublicKeyInfo}


@cache
def rsa_key(name: str = "ours") -> rsa.RSAPrivateKey:
    """Return the key of this name; generated once, because that takes a moment."""
    return rsa.generate_private_key(65537, BITS)


def private_pem(folder: Path, form: str = "pkcs8", name: str = "ours", passphrase: bytes = b"") -> Path:
    """Write a private key."""
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path = folder / f"{name}-{form}-private.pem"
    path.write_bytes(rsa_key(name).private_bytes(Encoding.PEM, PRIVATE_FORMS[form], encryption))
    return path


def public_pem(folder: Path, form: str = "pkix", name: str = "ours") -> Path:
    """Write a public key."""
    path = folder / f"{name}-{form}-public.pem"
    path.write_bytes(rsa_key(name).public_key().public_bytes(Encoding.PEM, PUBLIC_FORMS[form]))
    return path


def public_key(name: str = "ours") -> PublicKey:
    """Return the public key, as workers have it."""
    return PublicKey(rsa_key(name).public_key())


def other_kind(folder: Path) -> tuple[Path, Path]:
    """Write a private and a public key that are not RSA."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "ec-private.pem", folder / "ec-public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public
