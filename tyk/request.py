"""The request as a hook sees it: the gateway's own object, and short ways to change headers and parameters."""

from collections.abc import Mapping
from threading import RLock
from typing import Any, Final, Protocol, TypeAlias

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject as MiniRequestObject
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides as ReturnOverrides

__all__ = ["TykCoProcessRequest"]

_HEADER_SEPARATOR: Final = "-"


class TykCoProcessRequest:
    """Wraps the protobuf `MiniRequestObject`, which is `request.object` and may be read and changed directly.

    The gateway applies deletions first, then what was set; it ignores changes made in `object.headers`,
    `object.params` and `object.body`: use `add_header`, `add_param` and `object.raw_body`.
    """

    object: MiniRequestObject

    def __init__(self, object: MiniRequestObject) -> None:  # noqa: A002 (the name plugin authors know it by)
        """Wrap `object`, without a copy."""
        self.object = object

    def __repr__(self) -> str:
        return f"<TykCoProcessRequest {self.object.method} {self.object.url}>"

    def get_header(self, key: str) -> str | None:
        """Return the header's first value as it arrived, or None; upper and lower case are the same.

        Headers set by `add_header` are not seen here: they are for the upstream.
        """
        return find_header(self.object.headers, key)

    def add_header(self, key: str, value: str) -> None:
        """Set a header of the request that goes on, in place of the one that came, if any."""
        self.object.set_headers[key] = value

    def delete_header(self, key: str) -> None:
        """Remove a header from the request that goes on."""
        self.object.delete_headers.append(key)

    def add_param(self, key: str, value: str) -> None:
        """Set a parameter of the query."""
        self.object.add_params[key] = value

    def delete_param(self, key: str) -> None:
        """Remove a parameter from the query."""
        self.object.delete_params.append(key)


TykRequest: TypeAlias = TykCoProcessRequest
"""The same class under a shorter name."""


Change: TypeAlias = tuple[str, str | None]
"""A name and what it was set to; None: it was deleted."""


class Changes:
    """What a hook did to headers and parameters, in order."""

    __slots__ = ("headers", "params")

    def __init__(self) -> None:
        self.headers: list[Change] = []
        self.params: list[Change] = []

    def write_to(self, message: MiniRequestObject) -> None:
        """Add them to the changes in a message."""
        for key, value in self.headers.copy():  # a finalizer may add to the list
            if value is None:
                message.delete_headers.append(key)
            else:
                message.set_headers[key] = value
        for key, value in self.params.copy():
            if value is None:
                message.delete_params.append(key)
            else:
                message.add_params[key] = value


class RequestSource(Protocol):
    """Where a lazy request gets its message from."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that arrived."""

    def read(self) -> bytes | MiniRequestObject:
        """Return what completes the message: encoded fields to be merged into it, or another message to be copied."""


class LazyRequest(TykCoProcessRequest):
    """A request whose message is completed on first access to `.object`.

    Most hooks look at a few headers and set some. To copy a large body into the message, or to look through the
    message of each hook of a chain, would cost more than the hook does. So its methods work on `changes` until then.

    Threads may share it. The lock is re-entrant because a plugin's finalizer may run at any allocation, also in a
    thread that holds the lock. Methods that change something take no lock: they look whether loading has begun after
    they have added to `changes`, and it writes these after it has said so.
    """

    __slots__ = ("_changes", "_lock", "_message", "_source", "is_loaded")

    def __init__(self, message: MiniRequestObject, source: RequestSource, changes: Changes) -> None:
        """Complete `message` from `source`; `changes`, which are still empty, are written to it only then."""
        self._message = message
        self._source: RequestSource | None = source
        """None: changes go to the message."""
        self._changes = changes
        self._lock = RLock()
        self.is_loaded = False

    @property
    def object(self) -> MiniRequestObject:
        """The complete message. Raises LookupError if the body is not there any more."""
        if not self.is_loaded:
            self._load()
        return self._message

    @object.setter  # noqa: A003
    def object(self, message: MiniRequestObject) -> None:
        self._load()
        self._message = message

    def _load(self) -> None:
        with self._lock:
            if self._source is None:
                return
            missing = self._source.read()
            if self._source is None:
                return  # a finalizer that ran meanwhile has loaded it
            if isinstance(missing, bytes):
                self._message.MergeFromString(missing)
            else:
                self._message.CopyFrom(missing)
            self._source = None
            self._changes.write_to(self._message)
            self.is_loaded = True

    def __reduce__(self) -> Any:
        """Make a copy an ordinary request."""
        return TykCoProcessRequest, (self.object,), self.__dict__ or None

    def get_header(self, key: str) -> str | None:
        source = self._source
        if source is None or not _is_plain(key):
            return super().get_header(key)
        return find_header(source.headers, key)

    def add_header(self, key: str, value: str) -> None:
        if type(key) is type(value) is str and key.isascii() and value.isascii():  # _is_plain, without two calls
            self._changes.headers.append((key, value))
            if self._source is not None:
                return
        super().add_header(key, value)

    def delete_header(self, key: str) -> None:
        if _is_plain(key):
            self._changes.headers.append((key, None))
            if self._source is not None:
                return
        super().delete_header(key)

    def add_param(self, key: str, value: str) -> None:
        if _is_plain(key) and _is_plain(value):
            self._changes.params.append((key, value))
            if self._source is not None:
                return
        super().add_param(key, value)

    def delete_param(self, key: str) -> None:
        if _is_plain(key):
            self._changes.params.append((key, None))
            if self._source is not None:
                return
        super().delete_param(key)


def _is_plain(text: object) -> bool:
    """Whether a message takes it: other types, and text that is not valid Unicode, the message refuses itself."""
    return type(text) is str and text.isascii()


def find_header(headers: Mapping[str, str], key: str) -> str | None:
    """Look for a header as it is written, as Go spells it, then through all: a sender may have any spelling."""
    value = headers.get(key)
    if value is None:
        value = headers.get(canonical_header(key))
    if value is None:
        wanted = key.lower()
        value = next((value for name, value in headers.items() if name.lower() == wanted), None)
    return value


def canonical_header(key: str) -> str:
    """Spell a header's name as Go does (`textproto.CanonicalMIMEHeaderKey`): `x-api-key` is `X-Api-Key`."""
    return _HEADER_SEPARATOR.join(word.capitalize() for word in key.split(_HEADER_SEPARATOR))
