"""Read and write URLs and query strings as Go's `net/url`, which the gateway uses."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes, urlsplit

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_REQUEST_URI: Final = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*:/")
"""A path, or an absolute URL."""


def is_request_uri(url: str) -> bool:
    """Whether `url.ParseRequestURI` accepts the URL; if not, the gateway answers 500."""
    if url == "*" or (url[:1] == "/" and "%" not in url and url.isprintable()):
        return True  # nearly every URL
    path = url.partition("?")[0]
    if _REQUEST_URI.match(url) is None or _CONTROL.search(url) or _BAD_ESCAPE.search(path):
        return False
    return url[:1] == "/" or _has_host(url)


def _has_host(url: str) -> bool:
    """Whether the host of an absolute URL can be parsed: brackets are for IPv6 addresses."""
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def split_query(url: str) -> tuple[str, str]:
    """Split a URL at its first question mark into path and query."""
    path, _, query = url.partition("?")
    return path, query


def parse_query(query: str) -> dict[str, list[str]]:
    """Parse a query string as `url.ParseQuery` does, which ignores pairs with a semicolon or a bad escape."""
    values: dict[str, list[str]] = {}
    for pair in query.split("&"):
        if not pair or ";" in pair or _BAD_ESCAPE.search(pair):
            continue
        key, _, value = pair.partition("=")
        values.setdefault(_unescape(key), []).append(_unescape(value))
    return values


def encode_query(values: Mapping[str, list[str]]) -> str:
    """Encode a query string as `url.Values.Encode` does: sorted by key."""
    return "&".join(
        f"{_escape(key)}={_escape(value)}" for key in sorted(values, key=str.encode) for value in values[key]
    )


def _unescape(text: str) -> str:
    """Undo percent-encoding. Invalid UTF-8 becomes replacement characters, because protobuf strings must be valid."""
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def _escape(text: str) -> str:
    return quote_plus(text, safe="~")
