"""What the router must know of an encoded `coprocess.Object` map, without decoding the rest: the mirror of `peek`."""

from typing import Final

import msgspec

from tykpy.broker.router.peek import Peek, PeekError

HOOK_TYPES: Final = {"Unknown": 0, "Pre": 1, "Post": 2, "PostKeyAuth": 3, "CustomKeyCheck": 4, "Response": 5}
"""`coprocess.HookType`: an enum may be sent as its number or its name."""


class _Spec(msgspec.Struct, gc=False):
    """What is read of `spec`; msgspec steps over everything else, and of equal keys takes the last."""

    api_id: str | None = msgspec.field(default=None, name="APIID")
    org_id: str | None = msgspec.field(default=None, name="OrgID")
    bundle_hash: str | None = None


class _Object(msgspec.Struct, gc=False):
    """What is read of an Object."""

    hook_type: int | str | None = None
    hook_name: str | None = None
    spec: msgspec.Raw = msgspec.Raw()


_decode: Final = msgspec.msgpack.Decoder(_Object).decode
_decode_spec: Final = msgspec.msgpack.Decoder(_Spec | None).decode
_NO_SPEC: Final = _Spec()

_MAX_REMEMBERED: Final = 1024
_MAX_REMEMBERED_BYTES: Final = 2048
"""Specs are remembered up to this size: a gateway sends the same bytes for every call of one hook of one API."""
_remembered: Final[dict[tuple[int | str | None, str | None, bytes], Peek]] = {}


def peek_map(body: bytes) -> Peek:
    """Read hook type, hook name and the spec's identity from an Object in MessagePack.

    As in a decoded map, the last of several equal keys counts; absent and nil fields are 0 or "".
    Raises PeekError where the bytes are not such a map.
    """
    try:
        seen = _decode(body)
        key = seen.hook_type, seen.hook_name, bytes(seen.spec)
        return _remembered.get(key) or _peek(*key)
    except (ValueError, RecursionError) as error:
        raise PeekError(str(error) or type(error).__name__) from error


def _peek(hook_type: int | str | None, hook_name: str | None, packed: bytes) -> Peek:
    spec = (_decode_spec(packed) if packed else None) or _NO_SPEC
    number = _number_of(hook_type) if isinstance(hook_type, str) else hook_type or 0
    result = Peek(number, hook_name or "", spec.api_id or "", spec.org_id or "", spec.bundle_hash or "")
    if len(packed) + len(result.hook_name) <= _MAX_REMEMBERED_BYTES:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        _remembered[hook_type, hook_name, packed] = result
    return result


def _number_of(name: str) -> int:
    number = HOOK_TYPES.get(name)
    if number is None:
        raise PeekError(f"hook_type {name!r} is none of {', '.join(HOOK_TYPES)}")
    return number
