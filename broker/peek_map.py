"""What the router must know of an encoded `coprocess.Object` map, without decoding the rest: the mirror of `peek`."""

from typing import Any, Final

import msgpack

from broker.peek import Peek, PeekError

HOOK_TYPES: Final = {"Unknown": 0, "Pre": 1, "Post": 2, "PostKeyAuth": 3, "CustomKeyCheck": 4, "Response": 5}
"""`coprocess.HookType`: an enum may be sent as its number or its name."""

_FIRST_BUFFER: Final = 4096
_UNLIMITED: Final = 0
_NO_SPEC: Final[dict[str, Any]] = {}


def peek_map(body: bytes) -> Peek:
    """Read hook type, hook name and the spec's identity from an Object in MessagePack.

    As in a decoded map, the last of several equal keys counts; absent and nil fields are 0 or "".
    Raises PeekError where the bytes are not such a map.
    """
    hook_type, hook_name, spec = None, None, None
    scanner = msgpack.Unpacker(read_size=_FIRST_BUFFER, max_buffer_size=_UNLIMITED, strict_map_key=False)
    scanner.feed(body)
    try:
        for _ in range(scanner.read_map_header()):
            key = scanner.unpack()
            if key == "hook_type":
                hook_type = scanner.unpack()
            elif key == "hook_name":
                hook_name = scanner.unpack()
            elif key == "spec":
                spec = scanner.unpack()
            else:
                scanner.skip()
    except (TypeError, ValueError, msgpack.UnpackException) as error:
        raise PeekError(str(error) or type(error).__name__) from error
    return _peek_of(hook_type, hook_name, spec)


def _peek_of(hook_type: Any, hook_name: Any, spec: Any) -> Peek:
    number = HOOK_TYPES.get(hook_type) if isinstance(hook_type, str) else hook_type or 0
    if not isinstance(number, int):
        raise PeekError(f"hook_type {hook_type!r} is none of {', '.join(HOOK_TYPES)}")
    if spec is None:
        spec = _NO_SPEC
    if not isinstance(spec, dict):
        raise PeekError("spec is not a map")
    return Peek(
        number,
        _text(hook_name, "hook_name"),
        _text(spec.get("APIID"), "spec.APIID"),
        _text(spec.get("OrgID"), "spec.OrgID"),
        _text(spec.get("bundle_hash"), "spec.bundle_hash"),
    )


def _text(value: Any, field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PeekError(f"{field} is not a string")
    return value
