"""A dispatch that records its outcome, for tests of the router and its parts."""

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.errors import DispatchError
from tykpy.broker.router.dispatch import Dispatch
from tykpy.ipc.frame import Kind, Status


class RecordedDispatch(Dispatch):
    """Records every outcome; there must be exactly one."""

    __slots__ = ("outcomes",)

    def __init__(self, body: bytes = b"", kind: int = Kind.OBJECT, timeout_ns: int | None = None) -> None:
        super().__init__(kind, body, timeout_ns)
        self.outcomes: list[bytes | DispatchError] = []

    def answer(self, kind: int, body: bytes) -> None:
        """Remember the answer."""
        assert kind == self.kind
        self.outcomes.append(body)

    def fail(self, error: DispatchError) -> None:
        """Remember the error."""
        self.outcomes.append(error)

    @property
    def status(self) -> Status:
        """The status of the one error it ended with."""
        (error,) = self.outcomes
        assert isinstance(error, DispatchError)
        return error.status


def object_bytes(hook: str, hook_type: int = 1, bundle_hash: str = "") -> bytes:
    """A small serialized Object."""
    obj = Object(hook_name=hook, spec={"bundle_hash": bundle_hash})
    obj.hook_type = hook_type  # type: ignore[assignment]
    return obj.SerializeToString()
