"""What the gateway does between two hooks: the effects of one become the object that the next one gets.

A fold keeps the object as the gateway would send it next, and what has to be in the last object so that the gateway,
applying it to the request it still has, ends where single calls would have ended (Tyk: `gateway/coprocess.go`).
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol, TypeAlias
from weakref import ref

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_response_object_pb2 import Header, ResponseObject
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides
from tyk.request import canonical_header
from tykpy.workers.objects.go_urls import encode_query, is_request_uri, parse_query, split_query
from tykpy.workers.objects.lazy import Notes, UnreadRequest, do_once, one_turn
from tykpy.workers.objects.mapping import entries

_HOST: Final = "Host"
"""Comes from the connection, not from the headers: no hook's change of it is seen by the next one."""
_CHANGES: Final = ("set_headers", "delete_headers", "add_params", "delete_params")
_NO_OVERRIDES: Final = ReturnOverrides(response_code=-1)
_MAX_REMEMBERED: Final = 1024
"""Headers' names whose spelling is remembered."""
_MAX_LENGTH: Final = 128
"""Characters of such a name."""
_spelled: Final[dict[str, str]] = {}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


_Changes: TypeAlias = tuple[Iterable[str], Mapping[str, str]]
"""Names of headers that a hook deleted, and what it set then."""


class Fold(Protocol):
    """Stands for the gateway between the hooks of one chain."""

    def view(self, raw_body_only: bool) -> tuple[Object, UnreadRequest | None]:
        """Return an object of the next hook's own, as the gateway would send it, and its request if not the message."""

    def apply(self, answer: Object) -> bool:
        """Take over what the hook did; False: the gateway would not call another one."""

    def finish(self, answer: Object) -> None:
        """Put what all hooks did into the last one's answer."""


class _Headers:
    """What hooks did to headers, in the spelling of the gateway."""

    def __init__(self) -> None:
        self.deleted: dict[str, str] = {}
        """By name, the name as a hook wrote it."""
        self.added: dict[str, tuple[str, str]] = {}
        """By name, the name as a hook wrote it, and the value."""

    def change(self, deleted: Iterable[str], added: Mapping[str, str]) -> None:
        """Take over what the next hook did: deletions, then additions."""
        for key in deleted:
            name = _canonical(key)
            self.deleted[name] = key
            self.added.pop(name, None)
        for key in added:
            self.added[_canonical(key)] = key, added[key]

    def apply_to(self, headers: MutableMapping[str, str]) -> None:
        """Do it to the headers that came: that makes those that the next hook gets."""
        for name in self.deleted:
            if name != _HOST:
                headers.pop(name, None)
        for name, (_, value) in self.added.items():
            if name != _HOST:
                headers[name] = value


def _joined(done: Iterable[_Changes]) -> _Headers:
    headers = _Headers()
    for deleted, added in done:
        headers.change(deleted, added)
    return headers


class _Step(Notes):
    """What a hook does to its request as long as nobody asks for the message. Used for one hook after the other."""

    before: Sequence[_Changes]
    """What hooks before it did to headers that is not in the state."""
    raw_body_only: bool
    is_read = False

    def __init__(self, state: MiniRequestObject) -> None:
        """`state`: the request that the gateway would send, but for headers."""
        self._unwritten = one_turn()
        self._state = state

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that this hook gets."""
        headers = entries(self._state.headers)
        _joined(self.before).apply_to(headers)
        return headers

    def read(self) -> MiniRequestObject:
        """Make the message that the gateway would send, and do to it what is noted here, once; returns it."""
        request = self._state
        noted = self.set_headers or self.delete_headers or self.add_params or self.delete_params
        if noted or self.before or self.raw_body_only or not request.body:
            request = MiniRequestObject()
            request.CopyFrom(self._state)
            _joined(self.before).apply_to(request.headers)
            request.body = "" if self.raw_body_only else request.body or _text(request.raw_body)
            _write(self.delete_headers, request.delete_headers, self.set_headers, request.set_headers)
            _write(self.delete_params, request.delete_params, self.add_params, request.add_params)
        do_once(self._unwritten, self.subject.request.CopyFrom, request)
        self.is_read = True
        return self.subject.request


class RequestFold:
    """The gateway between hooks that change the request.

    To copy a request costs as much as to set ten headers, to look at one of its fields as much as to set one. So each
    hook gets an object without the request, and a request that notes what is done to it: its message is made when the
    hook asks for it.
    """

    def __init__(self, first: Object, hooks: int) -> None:
        """Begin a chain of `hooks` hooks with the object as it came."""
        self._state = first
        self._request = request = first.request
        self._left = hooks
        if request.set_headers or request.delete_headers or request.add_params or request.delete_params:
            _clear_changes(request)
        if request.return_overrides.response_code != _NO_OVERRIDES.response_code:
            request.return_overrides.CopyFrom(_NO_OVERRIDES)
        self._url = request.url
        self._is_rewritten = request.url[:1] not in ("", "/")
        """The API rewrites the URL: what hooks make of it counts whole, and their parameters do not."""
        self._is_good = False
        """It is known that the gateway takes the state's URL."""
        self._done: list[_Changes] = []
        """What each hook did to headers."""
        self._shown = 0
        """How many hooks' changes the state's headers show."""
        self._deleted_params: dict[str, str] = {}
        self._set_params: dict[str, str] = {}
        self._step = _Step(request)
        self._bare = Object()
        """The object without its request."""
        if hooks > 1:
            self._bare.CopyFrom(first)
            self._bare.ClearField("request")

    def view(self, raw_body_only: bool) -> tuple[Object, UnreadRequest]:
        """Return an object of the next hook's own without its request, and the request.

        The last hook gets the state itself, which nobody needs any more.
        """
        self._left = left = self._left - 1
        if left > 1:
            view = Object()
            view.CopyFrom(self._bare)
        else:
            view = self._bare if left else self._state
        step = self._step
        if step.is_read:
            step = self._step = _Step(self._request)
        step.subject, step.set_headers = view, {}
        step.before, step.raw_body_only = self._done[self._shown :], raw_body_only
        given = UnreadRequest(step, step.read)
        self._given = ref(given)
        return view, given

    def apply(self, answer: Object) -> bool:
        """Apply deletions, then additions; then URL, method and body."""
        given, step = self._given(), self._step
        if given is not None:
            _ = given.object  # somebody has kept it: the state that it is made of is about to change
        if step.is_read or answer is not step.subject:
            step.is_read = True
            return self._take_message(answer.request)
        self._done.append((step.delete_headers, step.set_headers))
        step.delete_headers = ()
        deleted, added = step.delete_params, step.add_params
        if deleted or added:
            step.delete_params, step.add_params = (), {}
            self._change_params(deleted, added)
        elif self._is_good:
            return self._left > 0
        return self._left > 0 and self._take_url(self._url, deleted, added)

    def finish(self, answer: Object) -> None:
        """Write the changes of all hooks in place of the last one's."""
        step, request = self._step, answer.request
        if self._left and not step.is_read:
            step.read()
        headers = _joined(self._done[:-1])
        if step.is_read:
            _clear_changes(request)
        else:
            headers.apply_to(request.headers)
        headers.change(*self._done[-1])
        _write(headers.deleted.values(), request.delete_headers, dict(headers.added.values()), request.set_headers)
        _write(self._deleted_params, request.delete_params, self._set_params, request.add_params)

    def _take_message(self, request: MiniRequestObject) -> bool:
        """Take over what a hook did to its message; False: the gateway would not call another one."""
        self._done.append((list(request.delete_headers), entries(request.set_headers)))
        deleted, added = request.delete_params, request.add_params
        if deleted or added:
            self._change_params(deleted, added)
        if not self._left or request.return_overrides.response_code > 0:
            return False
        self._take_rest(request)
        url = request.url
        return (self._is_good and url == self._url and not deleted and not added) or self._take_url(url, deleted, added)

    def _change_params(self, deleted: Iterable[str], added: Mapping[str, str]) -> None:
        for key in deleted:
            self._deleted_params[key] = key
            self._set_params.pop(key, None)
        for key in added:
            self._set_params[key] = added[key]

    def _take_rest(self, request: MiniRequestObject) -> None:
        """Bring headers, method and body of the state up to date."""
        state = self._request
        _joined(self._done[self._shown :]).apply_to(state.headers)
        self._shown = len(self._done)
        if (method := request.method) != state.method:
            state.method = method
        if (raw_body := request.raw_body) != state.raw_body:
            state.raw_body, state.body = raw_body, _text(raw_body)

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
        if self._is_rewritten:
            self._change_rewritten(url, deleted, added)
            return
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

    def _change_rewritten(self, url: str, deleted: Iterable[str], added: Mapping[str, str]) -> None:
        params = self._request.params
        for key in deleted:
            params.pop(key, None)
        for key in added:
            params[key] = added[key]
        self._url = self._request.url = url


class ResponseFold:
    """The gateway between response hooks. It looks neither at their requests nor at their overrides."""

    def __init__(self, first: Object) -> None:
        self._state = first
        self._is_written = False
        """The headers are as the gateway sends them: first values, and all of them, once for each name."""
        self._raw_body_only: bool | None = None
        """What the request's `body` is for; None: what it came for, which is no matter of this chain's hooks."""

    def view(self, raw_body_only: bool) -> tuple[Object, None]:
        """Return a copy of the state."""
        request, response = self._state.request, self._state.response
        if raw_body_only is not self._raw_body_only:
            self._raw_body_only = raw_body_only
            request.body = "" if raw_body_only else _text(request.raw_body)
        response.body = "" if raw_body_only else _text(response.raw_body)
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


def _clear_changes(request: MiniRequestObject) -> None:
    for name in _CHANGES:
        request.ClearField(name)


def _write(deleted: Iterable[str], names: Any, added: Mapping[str, str], entries: Any) -> None:
    """Write what is deleted and added into fields that are empty."""
    if deleted:
        names.extend(deleted)
    for key, value in added.items():
        entries[key] = value


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
    name = _spelled.get(key)
    if name is None:
        name = canonical_header(key) if _TOKEN.fullmatch(key) else key
        if len(key) <= _MAX_LENGTH:
            if len(_spelled) >= _MAX_REMEMBERED:
                _spelled.clear()
            _spelled[key] = name
    return name


def _text(raw: bytes) -> str:
    """Return a body as text, as the gateway does: empty where it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""
