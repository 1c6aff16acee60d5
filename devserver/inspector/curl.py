"""A request as a command for a shell: "copy as curl"."""

import base64
import re
import shlex
from collections.abc import Iterator
from typing import Final

from tykpy.devserver.messages import GatewayRequest

MAX_ARGUMENT: Final = 64 * 1024
"""Bytes of a body that is written into the command; Linux takes 128 KiB in one argument."""
_UNSAFE: Final = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]|[\u2028-\u202e\u2066-\u2069]")
"""Control characters, which may end a paste or hide text, and bytes that are not UTF-8."""
_ADDED_BY_CURL: Final = ("Accept", "User-Agent")
_OWN_LENGTH: Final = frozenset({"Content-Length", "Host"})


def curl_command(request: GatewayRequest, host: str, body_path: str) -> str:
    """Return a command for bash or zsh that sends the request to `host`.

    A body that is too long for a command line is fetched from `body_path` of the same host.
    """
    target = request.uri
    url = f"http://{host}{target if target.startswith('/') else '/'}"
    method = ["--head"] if request.method == "HEAD" else [f"--request {_quoted(request.method)}"]
    first, data = _body(b"" if request.method == "HEAD" else request.body, f"http://{host}{body_path}")
    compressed = " --compressed" if "Accept-Encoding" in request.headers else ""
    options = [*method, f"--globoff --path-as-is{compressed}", *_headers(request, host), *data]
    if not target.startswith("/"):
        options.append(f"--request-target {_quoted(target)}")
    return f"{first}curl " + " \\\n  ".join([_quoted(url), *options]) + "\n"


def _headers(request: GatewayRequest, host: str) -> Iterator[str]:
    if request.host != host:
        yield f"--header {_quoted(f'Host: {request.host}')}"
    for name, values in request.headers.items():
        if name not in _OWN_LENGTH:
            yield from (f"--header {_quoted(f'{name}: {value}' if value else f'{name};')}" for value in values)
    added = (*_ADDED_BY_CURL, "Content-Type") if request.body else _ADDED_BY_CURL
    yield from (f"--header {name}:" for name in added if name not in request.headers)


def _body(body: bytes, url: str) -> tuple[str, list[str]]:
    """Return what stands before the command, and the options for the body."""
    if not body:
        return "", []
    if len(body) > MAX_ARGUMENT:
        return f"curl --silent {_quoted(url)} | ", ["--data-binary @-"]
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        return "", [f"--data-raw {_quoted(text)}"]
    return f"printf %s {base64.b64encode(body).decode()} | base64 --decode | ", ["--data-binary @-"]


def _quoted(text: str) -> str:
    """Quote one word; `$'...'`, which bash, zsh and ksh know, where it has control characters."""
    if not _UNSAFE.search(text):
        return shlex.quote(text)
    text = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_UNSAFE.sub(_escape, text)}'"


def _escape(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode(errors="surrogateescape"))
