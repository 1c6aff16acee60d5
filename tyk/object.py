"""The object of one dispatch as Tyk's embedded driver wraps it: for tests of bundles that build one themselves."""

from tyk.proto.coprocess_common_pb2 import HookType
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest

__all__ = ["TykCoProcessObject"]


class TykCoProcessObject:
    """Wraps the protobuf `Object`, which is `object`; its parts are attributes (tyk/object.py in Tyk)."""

    def __init__(self, object_msg: bytes) -> None:
        """Parse a serialized `Object`. Raises google.protobuf.message.DecodeError."""
        self.object = Object.FromString(object_msg)
        self.request = TykCoProcessRequest(self.object.request)
        self.session = self.object.session
        self.spec = self.object.spec
        self.metadata = self.object.metadata
        self.hook_name = self.object.hook_name
        self.response = self.object.response
        self.hook_type = HookType.Name(self.object.hook_type).lower() if self.object.hook_type else ""

    def dump(self) -> tuple[bytes, int]:
        """Return the object serialized, and its length."""
        serialized = self.object.SerializeToString()
        return serialized, len(serialized)
