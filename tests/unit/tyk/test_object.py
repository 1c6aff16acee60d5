"""`TykCoProcessObject` has the attributes of Tyk's own."""

import pytest

from tyk.object import TykCoProcessObject
from tyk.proto.coprocess_object_pb2 import Object
from tyk.request import TykCoProcessRequest


def test_parts_are_those_of_the_message() -> None:
    message = Object(hook_name="H", spec={"APIID": "api"}, metadata={"a": "b"}, session={"rate": 5})
    wrapped = TykCoProcessObject(message.SerializeToString())
    assert type(wrapped.request) is TykCoProcessRequest
    assert (wrapped.hook_name, wrapped.spec["APIID"], wrapped.metadata["a"]) == ("H", "api", "b")
    assert wrapped.session.rate == 5
    wrapped.request.add_header("X-Seen", "yes")
    wrapped.response.status_code = 418
    serialized, length = wrapped.dump()
    assert length == len(serialized)
    assert Object.FromString(serialized).request.set_headers == {"X-Seen": "yes"}
    assert Object.FromString(serialized).response.status_code == 418


@pytest.mark.parametrize(
    ("hook_type", "name"),
    [("Unknown", ""), ("Pre", "pre"), ("PostKeyAuth", "postkeyauth"), ("CustomKeyCheck", "customkeycheck")],
)
def test_hook_types_have_tyks_names(hook_type: str, name: str) -> None:
    assert TykCoProcessObject(Object(hook_type=hook_type).SerializeToString()).hook_type == name
