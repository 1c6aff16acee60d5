"""The subject of a dispatch: one object, however it arrived."""

from typing import Final, Protocol

from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest
from tykpy.ipc.frame import Kind, Packed, pack_frame
from tykpy.workers.objects.msgpack_codec import encode

_OBJECT: Final = int(Kind.OBJECT)


class Subject(Protocol):
    """One object to run hooks on."""

    @property
    def message(self) -> Object:
        """The object. Its request may lack large fields until `.object` of a lazy request is used."""

    def request(self) -> TykCoProcessRequest:
        """Return the request as a hook sees it; called once."""

    def answer(self, after: Object) -> Packed:
        """Return the answer frame for what hooks made of `message`, or for another object; called once."""


class WholeSubject:
    """An object that is in its message with all its fields."""

    __slots__ = ("_kind", "message")

    def __init__(self, message: Object, kind: int) -> None:
        """Answer in the encoding of `kind`: OBJECT or OBJECT_MAP."""
        self.message = message
        self._kind = kind

    def request(self) -> TykCoProcessRequest:
        """Return the request as a hook sees it."""
        return TykCoProcessRequest(self.message.request)

    def answer(self, after: Object) -> Packed:
        """Return the answer frame."""
        kind = self._kind
        return pack_frame(kind, None, after.SerializeToString() if kind == _OBJECT else encode(after))
