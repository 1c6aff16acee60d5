"""The trace that a dispatch continues: where it is found, and what is not taken for one."""

import hpack
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.peers.dispatches import RecordedDispatch
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.grpc.wire import pack_fields
from tykpy.broker.tracing.incoming import MAX_STATE, incoming_trace
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.frame import Kind

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-00"


def dispatch_of(obj: Object, metadata: bytes | None = None) -> RecordedDispatch:
    dispatch = RecordedDispatch(obj.SerializeToString())
    dispatch.metadata = metadata
    return dispatch


def carrier_of(dispatch: RecordedDispatch) -> dict[str, str] | None:
    found = incoming_trace(dispatch)
    if found is None:
        return None
    return {"traceparent": found.parent} | ({"tracestate": found.state} if found.state else {})


def object_with(headers: dict[str, str], body: str = "") -> Object:
    return Object(hook_name="hook", request={"headers": headers, "body": body}, spec={"APIID": "api"})


@pytest.mark.parametrize("huffman", [True, False])
def test_metadata_is_read_in_both_codings(huffman: bool) -> None:
    fields = [("x-other", "traceparen"), ("traceparent", PARENT), ("tracestate", "a=1"), ("x-last", "1")]
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields], huffman=huffman)
    block = block[1:] if block[0] & 0xE0 == 0x20 else block
    found = carrier_of(dispatch_of(object_with({"Traceparent": OTHER}), block))
    assert found == {"traceparent": PARENT, "tracestate": "a=1"}


def test_metadata_without_a_trace_leaves_it_to_the_request() -> None:
    metadata = pack_fields((b"x-traceparent-id", b"1"), (b"traceparent", b"invalid"))
    assert carrier_of(dispatch_of(object_with({"Traceparent": PARENT}), metadata)) == {"traceparent": PARENT}


@pytest.mark.parametrize("header", ["", "00-abc", PARENT + "-more", PARENT.upper(), PARENT.replace("-", "_"), "é" * 27])
def test_an_invalid_header_is_no_trace(header: str) -> None:
    assert carrier_of(dispatch_of(object_with({"Traceparent": header}))) is None


@pytest.mark.parametrize("name", ["X-Traceparent", "Traceparent-2", "aceparent"])
def test_other_names_are_no_trace(name: str) -> None:
    assert carrier_of(dispatch_of(object_with({name: PARENT}))) is None
    assert carrier_of(dispatch_of(object_with({name: OTHER, "Traceparent": PARENT}))) == {"traceparent": PARENT}


def test_a_long_state_is_dropped() -> None:
    for size, kept in ((MAX_STATE, True), (MAX_STATE + 1, False)):
        state = "a=" + "b" * (size - 2)
        found = carrier_of(dispatch_of(object_with({"Traceparent": PARENT, "Tracestate": state})))
        assert found == {"traceparent": PARENT} | ({"tracestate": state} if kept else {})


def test_headers_of_a_map_are_read() -> None:
    headers = {"Accept": "*/*", "Traceparent": PARENT, "Tracestate": "a=" + "b" * 300}
    dispatch = RecordedDispatch(msgpack.packb({"hook_name": "hook", "request": {"headers": headers}}))
    dispatch.kind = Kind.OBJECT_MAP
    assert carrier_of(dispatch) == {"traceparent": PARENT, "tracestate": headers["Tracestate"]}


def test_headers_of_a_stored_body_are_read() -> None:
    store = BodyStore(1 << 20)
    try:
        body = store.put(object_with({"Traceparent": PARENT}, "x" * 100_000).SerializeToString())
        assert body is not None
        dispatch = RecordedDispatch(b"")
        dispatch.body = body
        assert carrier_of(dispatch) == {"traceparent": PARENT}
        del dispatch, body
    finally:
        store.close()


@given(st.binary(max_size=80), st.sampled_from([Kind.OBJECT, Kind.OBJECT_MAP, Kind.EVENT]), st.booleans())
def test_whatever_follows_the_name_is_survived(rest: bytes, kind: Kind, in_metadata: bool) -> None:
    dispatch = RecordedDispatch(b"\x0b\xabTraceparent" + rest)
    dispatch.kind = kind
    dispatch.metadata = b"\x00\x0btraceparent" + rest if in_metadata else None
    carrier_of(dispatch)
