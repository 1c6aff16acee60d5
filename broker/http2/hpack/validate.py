"""The checks of a request's header list that RFC 9113, section 8 demands."""

import re
from collections.abc import Iterable
from typing import Final

from tykpy.broker.http2.errors import MalformedError

Header = tuple[bytes, bytes]

FIELD_OVERHEAD: Final = 32
"""Bytes that each field counts in addition to its name and value (RFC 9113, section 6.5.2)."""

_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_NEEDED_PSEUDO: Final = frozenset((b":method", b":scheme", b":path"))
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_bad_name: Final = re.compile(rb"[^!-@\[-~]|(?!^):").search
"""Anything but visible ASCII without capitals, or a colon after the first character (section 8.2.1)."""
_bad_value: Final = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]\Z").search


_MAX_PLAIN: Final = 1024
"""Cached names; when full, all are dropped and those in use come back."""
_MAX_PLAIN_NAME: Final = 128
"""Longest name that is cached, in bytes."""
_plain: Final[set[bytes]] = set()
"""Names seen that are valid and may have any valid value."""


def check_field(name: bytes, value: bytes) -> None:
    """Check one regular field; raises MalformedError."""
    if name not in _plain:
        _check_name(name, value)
    if _bad_value(value):
        raise MalformedError(f"value of field {name!r}")


def _check_name(name: bytes, value: bytes) -> None:
    if not name or _bad_name(name):
        raise MalformedError(f"field name {name!r}")
    if name in _CONNECTION_FIELDS:
        raise MalformedError(f"connection-specific field {name!r}")
    if name != b"te":
        if len(_plain) >= _MAX_PLAIN:
            _plain.clear()
        if len(name) <= _MAX_PLAIN_NAME:
            _plain.add(name)
    elif value != b"trailers":
        raise MalformedError("te is not trailers")


def takes_any_value(name: bytes) -> bool:
    """Return whether a name is known to be valid with any valid value."""
    return name in _plain


def check_request(headers: Iterable[Header]) -> None:
    """Check a request's header list; raises MalformedError."""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in headers:
        if not name.startswith(b":"):
            regular = True
            check_field(name, value)
            continue
        if regular:
            raise MalformedError(f"pseudo-header {name!r} after a regular field")
        if name not in _REQUEST_PSEUDO or name in pseudo or _bad_value(value):
            raise MalformedError(f"pseudo-header {name!r} is unknown, repeated or has a bad value")
        pseudo[name] = value
    _check_pseudo(pseudo)


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    if pseudo.get(b":method") == b"CONNECT":
        raise MalformedError("CONNECT is not served")
    missing = _NEEDED_PSEUDO - pseudo.keys()
    if missing:
        raise MalformedError(f"missing {b', '.join(sorted(missing)).decode()}")
    if not pseudo[b":path"]:
        raise MalformedError("empty :path")


def check_trailers(headers: Iterable[Header]) -> None:
    """Check a request's trailers; raises MalformedError."""
    for name, value in headers:
        if name.startswith(b":"):
            raise MalformedError(f"pseudo-header {name!r} in trailers")
        check_field(name, value)


def content_length(headers: Iterable[Header]) -> int | None:
    """Return the announced length of the body in bytes, if any; raises MalformedError if it is not a number."""
    values = {value for name, value in headers if name == b"content-length"}
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit():
        raise MalformedError("content-length is not one number")
    return int(value[:20])


def list_size(headers: Iterable[Header]) -> int:
    """Return the size of a header list in bytes as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    return sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in headers)
