"""A request as long as nobody has asked for its message.

Most hooks look at a few headers and set some. Filling the protobuf message of a request that came as a map would cost
more than all the rest of the dispatch, as would copying a large body from the broker's store into one; and in a chain
to look through a message for what a hook did costs as much as the hook. So these calls work on a record, and the
message is filled when `request.object` is first used. From then on the request is an ordinary one.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides
from tyk.request import TykCoProcessRequest, find_header
from workers.records import Record, record_type

Read = Callable[[], MiniRequestObject]
"""Fills the message from the record, once, and returns it. Where it raises, it is called again the next time."""

_no_overrides: Final = record_type(ReturnOverrides.DESCRIPTOR)
_LOCK: Final = Lock()


class _BeingRead(TykCoProcessRequest):
    """What an `UnreadRequest` is while one thread fills its message: the others wait for that."""

    def _wait(self) -> MiniRequestObject:
        with _LOCK:  # held until this class is another
            pass
        return self.object

    if not TYPE_CHECKING:  # for the type checker it is the attribute that it becomes
        object = property(_wait)


class Notes:
    """What is done to a request that has a message, in place of a record, as long as nobody asks for the message."""

    delete_headers: Sequence[str] = ()
    add_params: Mapping[str, str] = {}
    delete_params: Sequence[str] = ()
    return_overrides: Final = True
    """The message has them."""

    def __init__(self, subject: Object) -> None:
        """Of the request of `subject`."""
        self.set_headers: dict[str, str] = {}
        self.subject = subject

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that came."""
        return self.subject.request.headers

    def read(self) -> MiniRequestObject:
        """Do to the message what is noted here; returns it."""
        request = self.subject.request
        for key, value in list(self.set_headers.items()):  # another thread may add one, and writes it again if so
            request.set_headers[key] = value
        for key, value in self.add_params.items():
            request.add_params[key] = value
        if self.delete_headers:
            request.delete_headers.extend(self.delete_headers)
        if self.delete_params:
            request.delete_params.extend(self.delete_params)
        return request


class UnreadRequest(TykCoProcessRequest):
    """Behaves as the request that it becomes; `read` makes it one.

    A hook may share it between threads. To set a header takes no lock, which would cost as much as all the rest of it:
    `read` first changes the class, then takes what is in the record, so whoever still finds this class after writing
    was in time, and whoever does not writes again, to the message.
    """

    _record: Record
    _added: dict[str, str]
    """The record's `set_headers`."""
    _read: Read

    def __init__(self, record: Record, read: Read) -> None:
        if record.set_headers is None:
            record.set_headers = {}
        self._added = record.set_headers
        self._record = record
        self._read = read

    def read(self) -> MiniRequestObject:
        """Become an ordinary request; returns its message."""
        with _LOCK:
            attributes = vars(self)
            if type(self) is UnreadRequest:
                self.__class__ = _BeingRead  # type: ignore[assignment]
                try:
                    attributes["object"] = attributes["_read"]()
                except BaseException:
                    self.__class__ = UnreadRequest
                    raise
                del attributes["_read"], attributes["_record"], attributes["_added"]
                self.__class__ = TykCoProcessRequest  # type: ignore[assignment]
            return attributes["object"]  # type: ignore[no-any-return]

    def _replace(self, message: MiniRequestObject) -> None:
        self.read()
        self.object = message

    if not TYPE_CHECKING:
        object = property(read, _replace)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.read()  # a copy, too, is an ordinary request
        return TykCoProcessRequest.__reduce_ex__(self, protocol)

    # In all of these another thread may change the class at any moment: then the attributes are gone, `super` fails.

    def get_header(self, key: str) -> str | None:
        record = self.__dict__.get("_record")
        if record is None or not _is_plain(key):
            return TykCoProcessRequest.get_header(self, key)
        return find_header(record.headers or {}, key)

    def add_header(self, key: str, value: str) -> None:
        try:
            added = self._added
        except AttributeError:
            added = {}
        if type(key) is str and type(value) is str and key.isascii() and value.isascii():  # as _is_plain
            added[key] = value
            if type(self) is UnreadRequest:
                return
        TykCoProcessRequest.add_header(self, key, value)

    def delete_header(self, key: str) -> None:
        with _LOCK:
            if type(self) is UnreadRequest and _is_plain(key):
                self._record.delete_headers = [*(self._record.delete_headers or ()), key]
                return
        TykCoProcessRequest.delete_header(self, key)

    def add_param(self, key: str, value: str) -> None:
        with _LOCK:
            if type(self) is UnreadRequest and _is_plain(key, value):
                self._record.add_params = {**(self._record.add_params or {}), key: value}
                return
        TykCoProcessRequest.add_param(self, key, value)

    def delete_param(self, key: str) -> None:
        with _LOCK:
            if type(self) is UnreadRequest and _is_plain(key):
                self._record.delete_params = [*(self._record.delete_params or ()), key]
                return
        TykCoProcessRequest.delete_param(self, key)

    def complete(self) -> None:
        """Put in what a reply must have, see workers/shapes.py."""
        try:
            record = self._record
        except AttributeError:
            self.object.return_overrides.SetInParent()
            return
        if record.return_overrides is None:
            record.return_overrides = _no_overrides()
        if type(self) is not UnreadRequest:
            self.object.return_overrides.SetInParent()


def _is_plain(text: object, other: object = "") -> bool:
    """Whether these are texts that every field takes. What is no text, or not in UTF-8, the message refuses."""
    return type(text) is str and type(other) is str and text.isascii() and other.isascii()
