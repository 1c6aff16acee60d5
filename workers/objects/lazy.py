"""A request as long as nobody has asked for its message.

Most hooks look at a few headers and set some. Filling the protobuf message of a request that came as a map would cost
more than all the rest of the dispatch, as would copying a large body from the broker's store into one; and in a chain
to look through a message for what a hook did costs as much as the hook. So these calls work on a record, and the
message is filled when `request.object` is first used. From then on the request is an ordinary one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.proto.coprocess_return_overrides_pb2 import ReturnOverrides
from tyk.request import TykCoProcessRequest, find_header
from tykpy.workers.objects.records import Record, record_type

Read = Callable[[], MiniRequestObject]
"""Fills the message from the record, once, and returns it. Where it raises, it is called again the next time."""

_no_overrides: Final = record_type(ReturnOverrides.DESCRIPTOR)
_ONE: Final = (True,)
_TAKEN: Final = object()


def one_turn() -> Iterator[bool]:
    """Return what `do_once` takes: something that one of all who try gets."""
    return iter(_ONE)


def do_once(turn: Iterator[bool], function: Callable[[Any], object], argument: object) -> bool:
    """Call `function`, which is implemented in C, if nobody did; return whether it was called.

    Nobody finds it half done, and nobody waits. A lock would not do: a plugin's finalizer may run at any allocation,
    also of the thread that holds the lock, and wait for that very lock.
    """
    # From taking the turn to the function's return this is one call into C: no other Python code runs within.
    return next(map(function, compress((argument,), turn)), _TAKEN) is not _TAKEN


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
        self._unwritten = one_turn()

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that came."""
        return self.subject.request.headers

    def read(self) -> MiniRequestObject:
        """Do to the message what is noted here, once; returns it."""
        # Another thread may add a header meanwhile, and writes it again if so.
        changes = MiniRequestObject(
            set_headers=self.set_headers.copy(),
            add_params=self.add_params,
            delete_headers=self.delete_headers,
            delete_params=self.delete_params,
        )
        do_once(self._unwritten, self.subject.request.MergeFrom, changes)
        return self.subject.request


class UnreadRequest(TykCoProcessRequest):
    """Behaves as the request that it becomes; `read` makes it one.

    A hook may share it between threads, and finalizers may use it. Nothing here takes a lock: `read` first changes the
    class, then takes what is in the record, so whoever still finds this class after writing was in time, and whoever
    does not writes again, to the message.
    """

    _record: Record
    _added: dict[str, str]
    """The record's `set_headers`."""
    _read: Read

    def __init__(self, record: Record, read: Read) -> None:
        if record.set_headers is None:
            record.set_headers = {}
        if record.return_overrides is None:
            record.return_overrides = _no_overrides()  # what a reply must have, see bundles/shapes.py
        self._added = record.set_headers
        self._record = record
        self._read = read

    def read(self) -> MiniRequestObject:
        """Become an ordinary request; returns its message."""
        attributes = vars(self)
        read = attributes.get("_read")
        if read is not None:
            self.__class__ = _BeingRead
            try:
                attributes.setdefault("object", read())
            except BaseException:
                if "_read" in attributes:
                    self.__class__ = UnreadRequest
                raise
            for name in _OWN:
                attributes.pop(name, None)
            self.__class__ = TykCoProcessRequest  # type: ignore[assignment]
        return attributes["object"]  # type: ignore[no-any-return]

    def _replace(self, message: MiniRequestObject) -> None:
        self.read()
        vars(self)["object"] = message

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
        if _is_plain(key):
            self._noted("delete_headers", list).append(key)
            if type(self) is UnreadRequest:
                return
        TykCoProcessRequest.delete_header(self, key)

    def add_param(self, key: str, value: str) -> None:
        if _is_plain(key, value):
            self._noted("add_params", dict)[key] = value
            if type(self) is UnreadRequest:
                return
        TykCoProcessRequest.add_param(self, key, value)

    def delete_param(self, key: str) -> None:
        if _is_plain(key):
            self._noted("delete_params", list).append(key)
            if type(self) is UnreadRequest:
                return
        TykCoProcessRequest.delete_param(self, key)

    def _noted(self, name: str, kind: type) -> Any:
        """Return the record's list or map of this name, the same one to all threads."""
        attributes = vars(self)
        record = attributes.get("_record")
        if record is None:
            return kind()
        noted = attributes.setdefault(name, kind(getattr(record, name) or ()))
        setattr(record, name, noted)
        return noted


class _BeingRead(UnreadRequest):
    """What an `UnreadRequest` is while its message is filled: all that is done to it is done to the message."""

    get_header = TykCoProcessRequest.get_header
    add_header = TykCoProcessRequest.add_header
    delete_header = TykCoProcessRequest.delete_header
    add_param = TykCoProcessRequest.add_param
    delete_param = TykCoProcessRequest.delete_param


_OWN: Final = ("_read", "_record", "_added", "delete_headers", "add_params", "delete_params")
"""Attributes of an `UnreadRequest` that an ordinary request does not have."""


def _is_plain(text: object, other: object = "") -> bool:
    """Whether these are texts that every field takes. What is no text, or not in UTF-8, the message refuses."""
    return type(text) is str and type(other) is str and text.isascii() and other.isascii()
