"""`peek` against protobuf's own decoder."""

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.router.peek import Peek, PeekError, peek

texts = st.text(max_size=200)
keys = st.one_of(st.sampled_from(["APIID", "OrgID", "bundle_hash", "config_data"]), st.text(max_size=20))
objects = st.builds(
    lambda kind, name, spec, metadata, body: Object(
        hook_type=kind, hook_name=name, spec=spec, metadata=metadata, request={"body": body}
    ),
    st.integers(-(2**31), 2**31 - 1), texts, st.dictionaries(keys, texts), st.dictionaries(keys, texts), texts,
)  # fmt: skip
fragments = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"\x08", b"\x12", b"\x32", b"\x1a", b"\x0a\x05APIID", b"\x12\x01x", b"\x32\x0a\x0a\x05APIID\x12\x01x"]
    ),
    objects.map(lambda obj: bytes(obj.SerializeToString())),
)


def decoded(data: bytes) -> Peek | None:
    """Decode with protobuf; return None if it refuses the bytes."""
    try:
        obj = Object.FromString(data)
    except DecodeError:
        return None
    spec = obj.spec
    return Peek(obj.hook_type, obj.hook_name, spec.get("APIID", ""), spec.get("bundle_hash", ""))


@given(objects)
def test_objects(obj: Object) -> None:
    data = obj.SerializeToString()
    assert peek(data) == decoded(data)


@given(st.lists(objects, max_size=4))
def test_concatenated_objects_are_merged(parts: list[Object]) -> None:
    data = b"".join(part.SerializeToString() for part in parts)
    assert peek(data) == decoded(data)


@given(st.lists(fragments, max_size=6).map(b"".join))
def test_any_bytes(data: bytes) -> None:
    """`peek` reads whatever protobuf accepts, with the same result; it ignores errors in nested messages."""
    expected = decoded(data)
    try:
        seen = peek(data)
    except PeekError:
        assert expected is None
        return
    assert expected is None or seen == expected


@given(objects, st.data())
def test_cut_objects_never_yield_more_than_was_there(obj: Object, draw: st.DataObject) -> None:
    data = obj.SerializeToString()
    part = data[: draw.draw(st.integers(0, len(data)))]
    try:
        seen = peek(part)
    except PeekError:
        assert decoded(part) is None
        return
    assert decoded(part) in (None, seen)
