"""What the gateway does between two hooks: the effects of one become the object that the next one gets.

A fold keeps the object as the gateway would send it next, and what has to be in the last object so that the gateway,
applying it to the request it still has, ends where single calls would have ended (Tyk: `gateway/coprocess.go`).
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final, Protocol

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import Header, ResponseObject
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides
from tyk.request import canonical_header
from workers.mapping import entries
from workers.unread import Notes, UnreadRequest
from workers.urls import encode_query, is_request_uri, parse_query, split_query

_HOST: Final = "Host"
"""Comes from the connection, not from the headers: no hook's change of it is seen by the next one."""
_NO_OVERRIDES: Final = ReturnOverrides(response_code=-1)
_MAX_REMEMBERED: Final = 128
"""Characters of a header's name whose spelling is remembered."""
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Fold(Protocol):
    """Stands for the gateway between the hooks of one chain."""

    def view(self, raw_body_only: bool) -> tuple[Object, UnreadRequest | None]:
        """Return an object of the next hook's own, as the gateway would send it, and its request if not the message."""

    def apply(self, answer: Object) -> bool:
        """Take over what the hook did; False: the gateway would not call another one."""

    def finish(self, answer: Object) -> None:
        """Put what all hooks did into the last one's answer."""


class RequestFold:
    """The gateway between hooks that change the request.

    To look at a field of a message costs as much as to set a header. So hooks are given requests that note what is done
    to them as long as nobody asks for their message, and what a hook left as it was is not written again.
    """

    def __init__(self, first: Object, hooks: int) -> None:
        """Begin a chain of so many hooks, the first of which gets `first`."""
        self._state = first
        self._request = request = first.request
        self._left = hooks
        _clear_changes(request)
        self._url, self._method, self._raw_body = request.url, request.method, request.raw_body
        self._is_good = False
        """It is known that the gateway takes the state's URL."""
        self._raw_body_only: bool | None = None
        """What the state's `body` was written for; None: it is out of date."""
        self._next_headers: MutableMapping[str, str] = request.headers
        self._deleted_headers: dict[str, str] = {}
        self._set_headers: dict[str, tuple[str, str]] = {}
        self._deleted_params: dict[str, str] = {}
        self._set_params: dict[str, tuple[str, str]] = {}
        """By name, the key as a hook wrote it, and the value."""

    def view(self, raw_body_only: bool) -> tuple[Object, UnreadRequest]:
        """Return a copy of the state, whose request notes what is done to it.

        The last hook gets the state itself, which nobody needs any more.
        """
        if raw_body_only is not self._raw_body_only:
            self._raw_body_only = raw_body_only
            self._request.body = _text(self._raw_body, raw_body_only)
        self._left -= 1
        if self._left:
            view = Object()
            view.CopyFrom(self._state)
        else:
            view = self._state
            self._next_headers = {}
        self._notes = notes = Notes(view)
        self._given = given = UnreadRequest(notes, notes.read)
        return view, given

    def apply(self, answer: Object) -> bool:
        """Apply deletions, then additions; then URL, method and body."""
        notes = self._notes
        is_read = type(self._given) is not UnreadRequest or answer is not notes.subject
        changes: Any = answer.request if is_read else notes
        for key in changes.delete_headers:
            self._delete_header(key)
        added = changes.set_headers
        for key in list(added):  # a thread of the hook may still add to them
            self._set_header(key, added[key])
        deleted, added = changes.delete_params, changes.add_params
        if deleted or added:
            self._change_params(deleted, added)
        if not self._left or (is_read and not self._take_rest(changes)):
            return False
        url = changes.url if is_read else self._url
        if not self._is_good or url != self._url or deleted or added:
            return self._take_url(url, deleted, added)
        return True

    def finish(self, answer: Object) -> None:
        """Write the changes of all hooks in place of the last one's."""
        request = answer.request
        _write(self._deleted_headers, request.delete_headers, self._set_headers, request.set_headers)
        _write(self._deleted_params, request.delete_params, self._set_params, request.add_params)

    def _delete_header(self, key: str) -> None:
        name = _canonical(key)
        self._deleted_headers[name] = key
        self._set_headers.pop(name, None)
        if name != _HOST:
            self._next_headers.pop(name, None)

    def _set_header(self, key: str, value: str) -> None:
        name = _canonical(key)
        self._set_headers[name] = key, value
        if name != _HOST:
            self._next_headers[name] = value

    def _change_params(self, deleted: Iterable[str], added: Mapping[str, str]) -> None:
        for key in deleted:
            self._deleted_params[key] = key
            self._set_params.pop(key, None)
        for key in added:
            self._set_params[key] = key, added[key]

    def _take_rest(self, request: MiniRequestObject) -> bool:
        """Take over what only a message can change, but for the URL; False: the hook answers the request."""
        if request.return_overrides.response_code > 0:
            return False
        if (method := request.method) != self._method:
            self._method = self._request.method = method
        if (raw_body := request.raw_body) != self._raw_body:
            self._raw_body = self._request.raw_body = raw_body
            self._raw_body_only = None
        return True

    def _take_url(self, url: str, deleted: Iterable[str], added: Mapping[str, str]) -> bool:
        """Take over URL and parameters; False: the gateway does not take the URL."""
        if not is_request_uri(url):
            return False
        if url != self._url or deleted or added:
            self._change_url(url, deleted, added)
        self._is_good = url == self._url
        return True

    def _change_url(self, url: str, deleted: Iterable[str], added: Mapping[str, str]) -> None:
        """Make the URL the hook's, with the query that was there before, changed by deletions and additions."""
        values = parse_query(split_query(self._url)[1])
        for key in deleted:
            values.pop(key, None)
        for key in added:
            values[key] = [added[key]]
        path, query = split_query(url)
        if parse_query(query) != values:
            query = encode_query(values)
        state = self._request
        self._url = state.url = f"{path}?{query}" if query else path
        params = state.params
        params.clear()
        for key, several in values.items():
            params[key] = several[0]


class ResponseFold:
    """The gateway between response hooks. It looks neither at their requests nor at their overrides."""

    def __init__(self, first: Object) -> None:
        self._state = first
        self._is_written = False
        """The headers are as the gateway sends them: first values, and all of them, once for each name."""

    def view(self, raw_body_only: bool) -> tuple[Object, None]:
        """Return a copy of the state."""
        response = self._state.response
        response.body = _text(response.raw_body, raw_body_only)
        view = Object()
        view.CopyFrom(self._state)
        return view, None

    def apply(self, answer: Object) -> bool:
        """Bring `headers` and `multivalue_headers` together, take over status and body; nothing ends the chain."""
        response, state = answer.response, self._state.response
        state.status_code = response.status_code
        state.raw_body = response.raw_body
        state.body = response.body
        if not self._is_written or response != state:
            _write_headers(state, _response_headers(state, response))
            self._is_written = True
        return True

    def finish(self, answer: Object) -> None:
        """Write the headers that all hooks left."""
        _write_headers(answer.response, _values(self._state.response.multivalue_headers))


def _write(deleted: Mapping[str, str], names: Any, added: Mapping[str, tuple[str, str]], entries: Any) -> None:
    """Write the changes of several hooks: first all deletions apply, then what is left of the additions."""
    if deleted:
        names[:] = deleted.values()
    if added or entries:
        entries.clear()
        for key, value in added.values():
            entries[key] = value


def _clear_changes(request: MiniRequestObject) -> None:
    """Make the object one that the gateway sends: nothing changed yet."""
    for changes in (request.set_headers, request.add_params, request.extended_params):
        if changes:
            changes.clear()
    del request.delete_headers[:], request.delete_params[:]
    overrides = request.return_overrides
    if overrides != _NO_OVERRIDES:
        overrides.CopyFrom(_NO_OVERRIDES)


def _response_headers(state: ResponseObject, response: ResponseObject) -> list[tuple[str, list[str]]]:
    """Return the headers that the gateway makes of a hook's answer.

    Only where `headers` changed it counts: new keys are added, changed ones replace the first value, missing ones go.
    """
    many = _values(response.multivalue_headers)
    single = entries(response.headers)
    if single == entries(state.headers):
        return many
    first: dict[str, list[str]] = {}
    for key, values in many:
        first.setdefault(key, values)
    return [(key, [value, *first.get(key, [])[1:]]) for key, value in single.items()]


def _write_headers(response: ResponseObject, headers: list[tuple[str, list[str]]]) -> None:
    joined: dict[str, list[str]] = {}
    for key, values in headers:
        joined.setdefault(_canonical(key), []).extend(values)
    many, single = response.multivalue_headers, response.headers
    del many[:]
    single.clear()
    for key, values in joined.items():
        many.add(key=key, values=values)
        if values:
            single[key] = values[0]


def _values(headers: Iterable[Header]) -> list[tuple[str, list[str]]]:
    return [(header.key, list(header.values)) for header in headers]


def _canonical(key: str) -> str:
    """Spell a header as Go does; one that is no token stays as it is."""
    return _spelled(key) if len(key) <= _MAX_REMEMBERED else _spelled.__wrapped__(key)


@lru_cache(maxsize=1024)
def _spelled(key: str) -> str:
    return canonical_header(key) if _TOKEN.fullmatch(key) else key


def _text(raw: bytes, raw_body_only: bool) -> str:
    """Return a body as text, as the gateway does: empty where it is not UTF-8 or the hook wants it raw."""
    if raw_body_only:
        return ""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""
