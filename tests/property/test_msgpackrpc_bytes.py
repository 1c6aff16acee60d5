"""Any bytes, cut anywhere, are read or refused, and every valid call is read."""

import contextlib
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from tykpy.broker.errors import WireError
from tykpy.broker.msgpackrpc.wire import Message, RpcMessageReader, is_one_value, parse, unpack_values
from tykpy.broker.router.peek import PeekError, peek_map

LIMIT = 4096

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
calls = st.tuples(st.just(0), st.integers(0, 2**32 - 1), st.text(max_size=40), st.lists(values, max_size=3))
notifications = st.tuples(st.just(2), st.text(max_size=40), st.lists(values, max_size=3))
cuts = st.lists(st.integers(1, 50), min_size=1, max_size=20)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(found) % len(sizes)]
        found.append(data[at : at + size])
        at += size
    return found


def read(chunks: list[bytes]) -> tuple[list[Message], WireError | None]:
    reader = RpcMessageReader(LIMIT)
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while (message := reader.next()) is not None:
                found.append(message)
        except WireError as error:
            return found, error
    return found, None


def typed(value: Any) -> Any:
    """Return a value with its types, so that 1, 1.0 and True differ."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return (type(value).__name__, value)


@given(st.lists(calls | notifications, max_size=6), cuts)
def test_calls_are_read_however_they_are_cut(sent: list[Any], sizes: list[int]) -> None:
    stream = b"".join(msgpack.packb(message) for message in sent)
    found, error = read(pieces(stream, sizes))
    assert error is None
    assert len(found) == len(sent)
    for message, original in zip(found, sent, strict=True):
        assert message.method == original[-2]
        assert typed(unpack_values(message.params)) == typed(original[-1])
        assert (message.id is not None) == (original[0] == 0)


heads = st.sampled_from([b"\x94\x00", b"\xdc\x00\x04\x00", b"\x93\x02", b"\x94\x01"])
ids = st.sampled_from([b"\x05", b"\xcc\xff", b"\xce\x00\x01\x00\x00", b"\xd0\x05", b"\xa8dispatch", b""])
methods = st.sampled_from([b"\xa8dispatch", b"\xd9\x08dispatch", b"\xa4ping", b"\x05", b"\xa0"])
params = st.sampled_from([b"\x90", b"\x91\x80", b"\x92\x80\xc0", b"\xdc\x00\x01\x80", b"\x80"])


@given(st.lists(st.tuples(heads, ids, methods, params).map(b"".join), max_size=8))
def test_a_call_is_read_after_others_as_it_is_read_alone(sent: list[bytes]) -> None:
    values = list(filter(is_one_value, sent))
    expected: list[Message] = []
    for data in values:
        alone, expected_error = read([data])
        expected += alone
        if expected_error is not None:
            found, error = read(values)
            assert (found, str(error)) == (expected, str(expected_error))
            return
    assert read(values) == (expected, None)


@given(st.binary(max_size=300), cuts)
def test_any_bytes_end_in_messages_or_one_wire_error(data: bytes, sizes: list[int]) -> None:
    whole, whole_error = read([data])
    found, error = read(pieces(data, sizes))
    assert found == whole
    assert (error is None) == (whole_error is None)
    for message in found:
        try:
            unpack_values(message.params)
        except ValueError:
            continue


@given(calls, st.data())
def test_a_damaged_call_is_read_or_refused(call: Any, data: st.DataObject) -> None:
    packed = bytearray(msgpack.packb(call))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    read([bytes(packed)])


@given(values)
def test_parse_takes_any_value(value: Any) -> None:
    with contextlib.suppress(WireError):
        message = parse(msgpack.packb(value))
        assert value[0] in (0, 2)
        assert message.method == value[-2]


@given(st.binary(max_size=200) | values.map(msgpack.packb))
def test_peek_map_reads_or_refuses_any_bytes(body: bytes) -> None:
    try:
        seen = peek_map(body)
    except PeekError:
        return
    assert isinstance(seen.hook_type, int)


@given(st.binary(max_size=50) | values.map(msgpack.packb))
def test_is_one_value_agrees_with_another_decoder(body: bytes) -> None:
    assert is_one_value(body) == _is_one(body)


def _is_one(body: bytes) -> bool:
    scanner = msgpack.Unpacker()
    scanner.feed(body)
    try:
        scanner.skip()
    except (ValueError, msgpack.OutOfData):
        return False
    return bool(scanner.tell() == len(body))
