"""A key's session: the protobuf messages themselves, under the names that plugin authors know."""

from tyk.proto.coprocess_session_state_pb2 import (
    AccessDefinition,
    AccessSpec,
    BasicAuthData,
    JWTData,
    Monitor,
)
from tyk.proto.coprocess_session_state_pb2 import SessionState as TykSession

__all__ = ["AccessDefinition", "AccessSpec", "BasicAuthData", "JWTData", "Monitor", "TykSession"]
