"""What the gateway does between two hooks: the effects of one become the object that the next one gets.

A fold keeps the object as the gateway would send it next, and what has to be in the last object so that the gateway,
applying it to the request it still has, ends where single calls would have ended (Tyk: `gateway/coprocess.go`).
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import Header, ResponseObject
from tyk.request import canonical_header
from workers.urls import encode_query, is_request_uri, parse_query, split_query

_HOST: Final = "Host"
"""Comes from the connection, not from the headers: no hook's change of it is seen by the next one."""
_NO_OVERRIDE: Final = -1
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Fold(Protocol):
    """Stands for the gateway between the hooks of one chain."""

    def view(self, raw_body_only: bool) -> Object:
        """Return a new object, as the gateway would send it to the next hook."""

    def apply(self, answer: Object) -> bool:
        """Take over what a hook did; False: the gateway would not call another one."""

    def finish(self, answer: Object) -> None:
        """Put what all hooks did into the last one's answer."""


class RequestFold:
    """The gateway between hooks that change the request."""

    def __init__(self, first: Object) -> None:
        self._state = first
        self._headers = _Changes()
        self._params = _Changes()
        self._good_url: str | None = None
        _clear_changes(first.request)

    def view(self, raw_body_only: bool) -> Object:
        """Return a copy of the state: whatever a hook does to it, only what the gateway applies goes on."""
        view = Object()
        view.CopyFrom(self._state)
        view.request.body = _text(view.request.raw_body, raw_body_only)
        return view

    def apply(self, answer: Object) -> bool:
        """Apply deletions, then additions; then URL, method and body."""
        request, state = answer.request, self._state.request
        deleted = [(_canonical(key), key) for key in request.delete_headers]
        added = _keyed(request.set_headers)
        self._headers.add(deleted, added)
        self._params.add([(key, key) for key in request.delete_params], _plain(request.add_params))
        if request.return_overrides.response_code > 0 or not self._takes(request.url):
            return False
        _apply_headers(state.headers, deleted, added)
        _apply_query(state, request)
        state.method = request.method
        state.raw_body = request.raw_body
        return True

    def _takes(self, url: str) -> bool:
        """Whether the gateway takes the URL, which is nearly always the one that the hook before left."""
        if url != self._good_url:
            if not is_request_uri(url):
                return False
            self._good_url = url
        return True

    def finish(self, answer: Object) -> None:
        """Write the changes of all hooks in place of the last one's."""
        request = answer.request
        self._headers.write(request.delete_headers, request.set_headers)
        self._params.write(request.delete_params, request.add_params)


class ResponseFold:
    """The gateway between response hooks. It looks neither at their requests nor at their overrides."""

    def __init__(self, first: Object) -> None:
        self._state = first

    def view(self, raw_body_only: bool) -> Object:
        """Return a copy of the state."""
        view = Object()
        view.CopyFrom(self._state)
        view.response.body = _text(view.response.raw_body, raw_body_only)
        return view

    def apply(self, answer: Object) -> bool:
        """Bring `headers` and `multivalue_headers` together, take over status and body; nothing ends the chain."""
        response, state = answer.response, self._state.response
        _write_headers(state, _response_headers(state, response))
        state.status_code = response.status_code
        state.raw_body = response.raw_body
        return True

    def finish(self, answer: Object) -> None:
        """Write the headers that all hooks left."""
        _write_headers(answer.response, _values(self._state.response.multivalue_headers))


class _Changes:
    """Deletions and additions of several hooks, composed: first all deletions, then what is left of the additions."""

    def __init__(self) -> None:
        self._deleted: dict[str, str] = {}
        self._set: dict[str, tuple[str, str]] = {}

    def add(self, deleted: Iterable[tuple[str, str]], added: dict[str, tuple[str, str]]) -> None:
        """Add one hook's changes: by key, the key as it was written, and the value."""
        for key, written in deleted:
            self._deleted[key] = written
            self._set.pop(key, None)
        self._set.update(added)

    def write(self, deleted: Any, added: Any) -> None:
        """Write all changes into a repeated field and a map."""
        del deleted[:]
        deleted.extend(self._deleted.values())
        added.clear()
        added.update(self._set.values())


def _clear_changes(request: MiniRequestObject) -> None:
    """Make the object one that the gateway sends: nothing changed yet."""
    for field in ("set_headers", "delete_headers", "add_params", "delete_params", "extended_params"):
        request.ClearField(field)
    request.return_overrides.Clear()
    request.return_overrides.response_code = _NO_OVERRIDE


def _apply_headers(headers: Any, deleted: Iterable[tuple[str, str]], added: Mapping[str, tuple[str, str]]) -> None:
    for key, _ in deleted:
        if key != _HOST:
            headers.pop(key, None)
    for key, (_, value) in added.items():
        if key != _HOST:
            headers[key] = value


def _apply_query(state: MiniRequestObject, request: MiniRequestObject) -> None:
    """Make the URL the hook's, with the query that was there before, changed by `delete_params` and `add_params`."""
    if request.url == state.url and not request.delete_params and not request.add_params:
        return
    values = parse_query(split_query(state.url)[1])
    for key in request.delete_params:
        values.pop(key, None)
    for key, value in request.add_params.items():
        values[key] = [value]
    path, query = split_query(request.url)
    if parse_query(query) != values:
        query = encode_query(values)
    state.url = f"{path}?{query}" if query else path
    state.params.clear()
    state.params.update({key: entries[0] for key, entries in values.items()})


def _response_headers(state: ResponseObject, response: ResponseObject) -> list[tuple[str, list[str]]]:
    """Return the headers that the gateway makes of a hook's answer.

    Only where `headers` changed it counts: new keys are added, changed ones replace the first value, missing ones go.
    """
    many = _values(response.multivalue_headers)
    single = dict(response.headers)
    if single == dict(state.headers):
        return many
    first: dict[str, list[str]] = {}
    for key, values in many:
        first.setdefault(key, values)
    return [(key, [value, *first.get(key, [])[1:]]) for key, value in single.items()]


def _write_headers(response: ResponseObject, headers: list[tuple[str, list[str]]]) -> None:
    joined: dict[str, list[str]] = {}
    for key, values in headers:
        joined.setdefault(_canonical(key), []).extend(values)
    del response.multivalue_headers[:]
    response.multivalue_headers.extend(Header(key=key, values=values) for key, values in joined.items())
    response.headers.clear()
    response.headers.update({key: values[0] for key, values in joined.items() if values})


def _values(headers: Iterable[Header]) -> list[tuple[str, list[str]]]:
    return [(header.key, list(header.values)) for header in headers]


def _keyed(added: Any) -> dict[str, tuple[str, str]]:
    return {_canonical(key): (key, added[key]) for key in added} if added else {}


def _plain(added: Any) -> dict[str, tuple[str, str]]:
    return {key: (key, added[key]) for key in added} if added else {}


@lru_cache(maxsize=1024)
def _canonical(key: str) -> str:
    """Spell a header as Go does; one that is no token stays as it is."""
    return canonical_header(key) if _TOKEN.fullmatch(key) else key


def _text(raw: bytes, raw_body_only: bool) -> str:
    """Return a body as text, as the gateway does: empty where it is not UTF-8 or the hook wants it raw."""
    if raw_body_only:
        return ""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""
