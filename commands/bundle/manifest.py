"""A manifest that is being written: everything that it lacks at once, and its seal, checksum and signature."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tykpy.bundles.errors import ManifestError
from tykpy.bundles.files.manifest import HOOK_TYPES, MANIFEST_NAME, parse_manifest
from tykpy.bundles.files.signature import PrivateKey
from tykpy.commands.errors import CommandError

_EXTRACTOR_FIELDS: Final = ("extract_from", "extract_with")


def read_fields(root: Path) -> dict[str, Any]:
    """Read a manifest with every field it has, known or not.

    Raises CommandError with everything that a gateway would miss or not understand.
    """
    path = root / MANIFEST_NAME
    try:
        content = path.read_bytes()
        parse_manifest(content, str(path))
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror}") from error
    except ManifestError as error:
        raise CommandError(str(error)) from error
    fields: dict[str, Any] = json.loads(content.decode("utf-8-sig"))
    problems = list(_problems(fields))
    if problems:
        raise CommandError("\n".join(f"{path}: {problem}" for problem in problems))
    return fields


def remarks_on(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is possible, but perhaps not meant."""
    middleware = fields["custom_middleware"]
    if middleware["driver"].lower() == "python":
        yield 'the driver is "python": the gateway runs it in its embedded Python; see `tykpy bundle convert`'
    if not any(middleware.get(key) for key in HOOK_TYPES):
        yield f"no hook is listed ({', '.join(HOOK_TYPES)}): the gateway calls nothing but event handlers"


def seal(fields: Mapping[str, Any], contents: Mapping[str, bytes], key: PrivateKey | None) -> dict[str, Any]:
    """Return the manifest for these files: listed, with their checksum, and signed if there is a key.

    A signature that was there stays where it is still right: that is, for the same content.
    """
    whole = b"".join(contents.values())
    checksum = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    sealed = {**fields, "file_list": list(contents), "checksum": checksum}
    if key is not None:
        sealed["signature"] = key.sign(hashlib.sha256(whole).digest())
    elif fields.get("checksum") != checksum:
        sealed.pop("signature", None)
    return sealed


def as_bytes(fields: Mapping[str, Any]) -> bytes:
    """Return a manifest as it is written: the same bytes for the same fields."""
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"


def _problems(fields: Mapping[str, Any]) -> Iterator[str]:
    middleware = fields.get("custom_middleware")
    if not middleware:
        yield 'custom_middleware is missing: {"driver": "grpc", "pre": [{"name": "MyHook"}]} would be one'
        return
    if not middleware.get("driver"):
        yield 'custom_middleware.driver is missing; write "grpc"'
    if middleware.get("auth_check") and not middleware["auth_check"].get("name"):
        yield "custom_middleware.auth_check.name is missing"
    extractor = middleware.get("id_extractor") or {}
    if not isinstance(extractor, dict):
        yield "custom_middleware.id_extractor is not an object"
        return
    for name in _EXTRACTOR_FIELDS:
        if extractor and not extractor.get(name):
            yield f"custom_middleware.id_extractor.{name} is missing"
