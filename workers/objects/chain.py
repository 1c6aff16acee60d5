"""Do what the gateway does between two hooks: turn the effects of one into the object that the next one gets.

A chain's state is the object as the gateway would send it next. In addition it collects the changes of all hooks for
the last answer: the gateway applies that to the request it still has, and must end where single calls would end (Tyk:
`gateway/coprocess.go`).
"""

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol
from weakref import ref

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import Header, ResponseObject
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides
from tyk.request import Change, Changes, LazyRequest, TykCoProcessRequest, canonical_header
from tykpy.workers.objects.go_urls import encode_query, is_request_uri, parse_query, split_query
from tykpy.workers.objects.msgpack_codec import entries

_HOST: Final = "Host"
"""The gateway takes it from the connection and not from the headers, so no hook sees another one's change of it."""
_CHANGES: Final = ("set_headers", "delete_headers", "add_params", "delete_params")
_NO_OVERRIDES: Final = ReturnOverrides(response_code=-1)
_MAX_REMEMBERED: Final = 1024
"""Number of header names whose spelling is remembered."""
_MAX_LENGTH: Final = 128
"""Longest header name that is remembered, in characters."""
_spelled: Final[dict[str, str]] = {}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class ChainEffects(Protocol):
    """What the gateway does between the hooks of one chain."""

    def next_call(self, raw_body_only: bool) -> tuple[Object, TykCoProcessRequest]:
        """Return an object for the next hook, as the gateway would send it, and its request."""

    def apply(self, answer: Object) -> bool:
        """Apply the hook's effects. Return False if the gateway would not call another hook."""

    def finish(self, answer: Object) -> None:
        """Write the effects of all hooks into the last answer."""


class _Joined:
    """Changes of several hooks to headers or parameters, joined."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        """Names that `spelled` maps to the same spelling are one."""
        self._spelled = spelled
        self.deleted: dict[str, str] = {}
        """By canonical name: the name as a hook wrote it."""
        self.added: dict[str, tuple[str, str]] = {}
        """By canonical name: the name as a hook wrote it, and the value."""

    def change(self, changes: Sequence[Change]) -> None:
        """Add the next hook's changes. The gateway deletes first, then sets."""
        spelled = self._spelled
        for key, value in changes:
            if value is None:
                name = spelled(key)
                self.deleted[name] = key
                self.added.pop(name, None)
        for key, value in changes:
            if value is not None:
                self.added[spelled(key)] = key, value

    def apply_to(self, headers: MutableMapping[str, str]) -> None:
        """Turn the headers that arrived into those that the next hook gets."""
        for name in self.deleted:
            if name != _HOST:
                headers.pop(name, None)
        for name, (_, value) in self.added.items():
            if name != _HOST:
                headers[name] = value

    def write(self, deleted: Any, added: Any) -> None:
        """Write the changes to two empty fields of a message."""
        if self.deleted:
            deleted.extend(self.deleted.values())
        for key, value in self.added.values():
            added[key] = value


def _headers(done: Iterable[Changes]) -> _Joined:
    joined = _Joined(_canonical)
    for changes in done:
        joined.change(changes.headers)
    return joined


def _params(done: Iterable[Changes]) -> _Joined:
    joined = _Joined(str)
    for changes in done:
        if changes.params:
            joined.change(changes.params)
    return joined


def _changes_in(request: MiniRequestObject) -> Changes:
    changes = Changes()
    changes.headers = _listed(request.delete_headers, request.set_headers)
    changes.params = _listed(request.delete_params, request.add_params)
    return changes


def _listed(deleted: Iterable[str], added: Mapping[str, str]) -> list[Change]:
    return [*((key, None) for key in deleted), *((key, added[key]) for key in added)]


class RequestEffects:
    """The effects of hooks that change the request.

    Copying a request costs as much as setting ten headers, reading one of its fields as much as setting one. So each
    hook gets an object without the request, and a lazy request whose source is this object.
    """

    def __init__(self, first: Object, hooks: int) -> None:
        """Begin a chain of `hooks` hooks with the object that arrived."""
        self._state = first
        self._request = request = first.request
        self._left = hooks
        if request.set_headers or request.delete_headers or request.add_params or request.delete_params:
            _clear_changes(request)
        if request.return_overrides.response_code != _NO_OVERRIDES.response_code:
            request.return_overrides.CopyFrom(_NO_OVERRIDES)
        self._url = request.url
        self._is_rewritten = request.url[:1] not in ("", "/")
        """Whether the API rewrites the URL: the gateway then uses a hook's URL whole and ignores its parameters."""
        self._is_good = False
        """Whether the gateway is known to accept the state's URL."""
        self._done: list[Changes] = []
        """The changes of each hook."""
        self._applied = 0
        """How many hooks' changes are in the state's headers."""
        self._bare = Object()
        """The object without its request."""
        if hooks > 1:
            self._bare.CopyFrom(first)
            self._bare.ClearField("request")

    def next_call(self, raw_body_only: bool) -> tuple[Object, LazyRequest]:
        """Return an object for the next hook, without the request, and the request.

        The last hook gets the state itself, which is not needed any more.
        """
        self._left = left = self._left - 1
        if left > 1:
            view = Object()
            view.CopyFrom(self._bare)
        else:
            view = self._bare if left else self._state
        self._view, self._raw_body_only, self._is_read = view, raw_body_only, False
        self._before = self._done[self._applied :]
        self._changes = changes = Changes()
        request = LazyRequest(view.request, self, changes)
        self._given = ref(request)
        return view, request

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that the current hook gets."""
        headers = entries(self._request.headers)
        _headers(self._before).apply_to(headers)
        return headers

    def read(self) -> MiniRequestObject:
        """Return the request that the gateway would send to the current hook."""
        self._is_read = True
        request = self._request
        if self._before or self._raw_body_only or not request.body:
            request = MiniRequestObject()
            request.CopyFrom(self._request)
            _headers(self._before).apply_to(request.headers)
            request.body = "" if self._raw_body_only else request.body or _text(request.raw_body)
        return request

    def apply(self, answer: Object) -> bool:
        """Apply changes of headers and parameters, then URL, method and body."""
        given = self._given()
        if given is not None:
            _ = given.object  # the plugin has kept it, and its source is about to change
        self._is_read = self._is_read or answer is not self._view
        request = answer.request if self._is_read else None
        changes = self._changes if request is None else _changes_in(request)
        self._done.append(changes)
        if not self._left:
            return False
        url = self._url
        if request is not None:
            if request.return_overrides.response_code > 0:
                return False
            self._apply_rest(request)
            url = request.url
        return (self._is_good and url == self._url and not changes.params) or self._apply_url(url, changes)

    def finish(self, answer: Object) -> None:
        """Replace the last hook's changes by those of all hooks."""
        request = answer.request
        if self._left and not self._is_read:
            request.CopyFrom(self.read())
        headers = _headers(self._done[:-1])
        if self._is_read:
            _clear_changes(request)
        else:
            headers.apply_to(request.headers)
        headers.change(self._done[-1].headers)
        headers.write(request.delete_headers, request.set_headers)
        _params(self._done).write(request.delete_params, request.add_params)

    def _apply_rest(self, request: MiniRequestObject) -> None:
        """Apply changes of headers, method and body to the state."""
        state = self._request
        _headers(self._done[self._applied :]).apply_to(state.headers)
        self._applied = len(self._done)
        if (method := request.method) != state.method:
            state.method = method
        if (raw_body := request.raw_body) != state.raw_body:
            state.raw_body, state.body = raw_body, _text(raw_body)

    def _apply_url(self, url: str, changes: Changes) -> bool:
        """Apply URL and parameters. Return False if the gateway does not accept the URL."""
        if not is_request_uri(url):
            return False
        if url != self._url or changes.params:
            self._change_url(url, changes)
        self._is_good = url == self._url
        return True

    def _change_url(self, url: str, changes: Changes) -> None:
        """Combine the hook's path with the previous query, changed by the hook's parameters."""
        state = self._request
        joined = _params([changes])
        if self._is_rewritten:
            for key in joined.deleted:
                state.params.pop(key, None)
            for key, value in joined.added.values():
                state.params[key] = value
            self._url = state.url = url
            return
        values = parse_query(split_query(self._url)[1])
        for key in joined.deleted:
            values.pop(key, None)
        values.update((key, [value]) for key, value in joined.added.values())
        path, query = split_query(url)
        if parse_query(query) != values:
            query = encode_query(values)
        self._url = state.url = f"{path}?{query}" if query else path
        state.params.clear()
        for key, several in values.items():
            state.params[key] = several[0]


class ResponseEffects:
    """The effects of response hooks. The gateway ignores their requests and overrides."""

    def __init__(self, first: Object) -> None:
        self._state = first
        self._is_written = False
        """Whether headers are as the gateway sends them: each name once, with its first value and with all values."""
        self._raw_body_only: bool | None = None
        """Whether the request's `body` was left out; None: it is as it arrived."""

    def next_call(self, raw_body_only: bool) -> tuple[Object, TykCoProcessRequest]:
        """Return a copy of the state, and its request."""
        request, response = self._state.request, self._state.response
        if raw_body_only is not self._raw_body_only:
            self._raw_body_only = raw_body_only
            request.body = "" if raw_body_only else _text(request.raw_body)
        response.body = "" if raw_body_only else _text(response.raw_body)
        view = Object()
        view.CopyFrom(self._state)
        return view, TykCoProcessRequest(view.request)

    def apply(self, answer: Object) -> bool:
        """Apply status and body, and merge `headers` with `multivalue_headers`. Nothing ends the chain."""
        response, state = answer.response, self._state.response
        state.status_code = response.status_code
        state.raw_body = response.raw_body
        state.body = response.body
        if not self._is_written or response != state:
            _write_headers(state, _response_headers(state, response))
            self._is_written = True
        return True

    def finish(self, answer: Object) -> None:
        """Write the headers that the last hook left."""
        _write_headers(answer.response, _values(self._state.response.multivalue_headers))


def _clear_changes(request: MiniRequestObject) -> None:
    for name in _CHANGES:
        request.ClearField(name)


def _response_headers(state: ResponseObject, response: ResponseObject) -> list[tuple[str, list[str]]]:
    """Return the headers that the gateway makes of a hook's answer.

    If `headers` changed, new keys are added, changed ones replace the first value, and missing ones are removed.
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
    """Spell a header as Go does. A name that is not a token stays as it is."""
    name = _spelled.get(key)
    if name is None:
        name = canonical_header(key) if _TOKEN.fullmatch(key) else key
        if len(key) <= _MAX_LENGTH:
            if len(_spelled) >= _MAX_REMEMBERED:
                _spelled.clear()
            _spelled[key] = name
    return name


def _text(raw: bytes) -> str:
    """Return a body as text like the gateway: empty if it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""
