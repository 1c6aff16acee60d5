"""Sessions and responses are the protobuf classes, under the names that plugins import."""

from tyk.proto import coprocess_response_object_pb2, coprocess_session_state_pb2
from tyk.response import Header, TykResponse
from tyk.session import AccessDefinition, AccessSpec, BasicAuthData, JWTData, Monitor, TykSession


def test_types_are_the_protobuf_classes() -> None:
    assert TykSession is coprocess_session_state_pb2.SessionState
    for cls in (AccessDefinition, AccessSpec, BasicAuthData, JWTData, Monitor):
        assert cls is getattr(coprocess_session_state_pb2, cls.__name__)
    assert TykResponse is coprocess_response_object_pb2.ResponseObject
    assert Header is coprocess_response_object_pb2.Header


def test_a_session_as_plugins_build_it() -> None:
    session = TykSession(rate=1000.0, per=1.0, metadata={"token": "key"})
    spec = AccessSpec(url="/", methods=["GET"])
    session.access_rights["api"].CopyFrom(AccessDefinition(api_name="API", allowed_urls=[spec]))
    session.jwt_data.CopyFrom(JWTData(secret="s"))
    session.basic_auth_data.CopyFrom(BasicAuthData(password="p"))
    session.monitor.CopyFrom(Monitor(trigger_limits=[80.0]))
    assert TykSession.FromString(session.SerializeToString()) == session
