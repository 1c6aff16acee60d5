"""MessagePack-RPC's envelope: boundaries, ids, errors."""

import contextlib
import struct
from typing import Any

import msgpack
import pytest

from tykpy.broker.errors import WireError
from tykpy.broker.msgpackrpc.wire import (
    ENVELOPE_SIZE,
    MAX_DECODED,
    Message,
    RpcMessageReader,
    is_one_value,
    pack_error,
    pack_result,
    parse,
    unpack_values,
)
from tykpy.ipc.frame import Status

LIMIT = 10_000


def request(*params: Any, call_id: int = 1, method: str = "dispatch") -> bytes:
    packed: bytes = msgpack.packb([0, call_id, method, params])
    return packed


def read_all(reader: RpcMessageReader, data: bytes, step: int) -> list[Message]:
    found = []
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
        while (message := reader.next()) is not None:
            found.append(message)
    return found


@pytest.mark.parametrize("step", [1, 2, 7, 64, 100_000])
def test_messages_are_found_however_the_stream_is_cut(step: int) -> None:
    objects = [{"hook_name": "x" * n, "request": {"raw_body": b"\x00" * n}} for n in (0, 1, 31, 300, 5000)]
    data = b"".join(request(item, call_id=n) for n, item in enumerate(objects))

    found = read_all(RpcMessageReader(LIMIT), data, step)

    assert [unpack_values(message.params) for message in found] == [[item] for item in objects]
    assert [message.id for message in found] == [0, 1, 2, 3, 4]


def test_a_stream_without_pauses_is_not_accumulated() -> None:
    message = request("x" * 90)
    stream = message * 1000
    reader = RpcMessageReader(LIMIT)
    assert len(read_all(reader, stream[:-1], len(message) + 1)) == 999
    assert len(reader._data) < 4 * len(message)


@pytest.mark.parametrize("call_id", [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1])
def test_an_id_is_returned_as_it_came(call_id: int) -> None:
    message = parse(request(call_id=call_id))
    assert message.id is not None
    answer = msgpack.unpackb(pack_result(message.id, b"\xc3"))
    assert answer == [1, call_id, None, True]


@pytest.mark.parametrize("raw", [b"\xcf" + bytes(7) + b"\x05", b"\xd0\x05", b"\xd3" + bytes(7) + b"\x05"])
def test_an_id_in_a_wider_form_than_needed_is_an_id(raw: bytes) -> None:
    assert parse(b"\x94\x00" + raw + b"\xa1m\x90").id == 5


@pytest.mark.parametrize("call_id", [-1, 2**32, 2**63, None, "1", 1.0, b"1"])
def test_an_id_is_an_unsigned_32_bit_integer(call_id: Any) -> None:
    with pytest.raises(WireError, match=r"`int`.* - at `\$\[1\]`") as caught:
        parse(msgpack.packb([0, call_id, "ping", []]))
    assert caught.value.id is None


def test_wide_headers_of_small_things_are_read() -> None:
    data = b"\xdd\x00\x00\x00\x04\x00\x07" + b"\xdb\x00\x00\x00\x04ping" + b"\xdc\x00\x02\x01\x02"
    message = parse(data)
    assert message == Message(7, "ping", [b"\x01", b"\x02"])


@pytest.mark.parametrize("length", [0, 1, 31, 32, 255, 256, 70_000])
def test_method_names_of_any_length(length: int) -> None:
    assert parse(request(5, method="m" * length)).method == "m" * length


@pytest.mark.parametrize(
    "value",
    [
        1, None, "text", {}, [], [0], [0, 1], [0, 1, "m"], [0, 1, "m", [], 5], [1, 1, None, 5], [2, "m"], [3, "m", []],
        ["0", 1, "m", []], [0, 1, "m", {}], [0, 1, "m", None], [0, 1, 5, []], [0, 1, b"m", []], [2, 5, []], [2, "m", 5],
    ],
)  # fmt: skip
def test_other_values_than_calls_are_refused(value: Any) -> None:
    with pytest.raises(WireError) as caught:
        parse(msgpack.packb(value))
    assert caught.value.status is Status.INVALID


def test_a_refusal_carries_the_id_if_it_can_be_read() -> None:
    with pytest.raises(WireError) as caught:
        parse(msgpack.packb([0, 300, "m", "params"]))
    assert caught.value.id == 300


def test_a_byte_that_msgpack_never_uses_is_refused() -> None:
    reader = RpcMessageReader(LIMIT)
    reader.feed(b"\x94\x00\x01\xc1")
    with pytest.raises(WireError, match="not MessagePack"):
        reader.next()


@pytest.mark.parametrize("depth", [990, 1010, 5000, 900_000])
def test_deep_nesting_is_an_error_at_most(depth: int) -> None:
    """How deep values may nest differs between the libraries and between versions of Python; 1,024 is the most."""
    reader = RpcMessageReader(1_000_000)
    reader.feed(b"\x94\x00\x01\xa1m" + b"\x91" * depth + b"\xc0")
    with pytest.raises(WireError, match="not MessagePack") if depth > 1024 else contextlib.suppress(WireError):
        reader.next()


@pytest.mark.parametrize("cut", [0, 1])
def test_a_too_large_message_is_refused_with_its_id(cut: int) -> None:
    reader = RpcMessageReader(LIMIT)
    data = request(b"x" * (LIMIT + ENVELOPE_SIZE), call_id=77)
    reader.feed(data[: len(data) - cut])
    with pytest.raises(WireError, match=f"{LIMIT} bytes|{len(data)} bytes") as caught:
        reader.next()
    assert caught.value.status is Status.TOO_LARGE
    assert caught.value.id == 77


def test_an_announced_size_allocates_nothing() -> None:
    reader = RpcMessageReader(LIMIT)
    reader.feed(b"\x94\x00\x01\xa1m\x91\xc6\xff\xff\xff\xff")
    assert reader.next() is None


def test_an_error_is_a_string_for_stock_go_clients() -> None:
    answer = msgpack.unpackb(pack_error(5, Status.NOT_FOUND, "no hook X"))
    assert answer == [1, 5, "NOT_FOUND: no hook X", None]


def test_an_error_without_a_known_id_has_id_nil() -> None:
    assert msgpack.unpackb(pack_error(None, Status.INVALID, "what?"))[1] is None


def test_an_error_text_that_is_not_unicode_can_be_sent() -> None:
    assert msgpack.unpackb(pack_error(5, Status.INVALID, "bad \udcff name"))[2].startswith("INVALID: bad ")


@pytest.mark.parametrize("bad", [b"\xa2\xff\xfe", b"\x81\x90\x01", b"\xd7\xff" + b"\xff" * 8])
def test_params_that_cannot_be_decoded_are_a_value_error(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_values([bad])


def test_params_that_are_long_are_not_decoded() -> None:
    longest = b"\xdc" + struct.pack(">H", MAX_DECODED - 3) + b"\x90" * (MAX_DECODED - 3)
    assert len(unpack_values([longest])[0]) == MAX_DECODED - 3
    with pytest.raises(ValueError, match=f"{MAX_DECODED + 1} bytes, the limit is {MAX_DECODED}"):
        unpack_values([longest, b"\x90"])


def test_many_params_are_refused_before_they_are_read() -> None:
    with pytest.raises(WireError, match="length <= 16"):
        parse(msgpack.packb([0, 1, "m", [0] * 100_000]))


def test_only_one_complete_value_is_one_value() -> None:
    good = msgpack.packb({"a": b"b"})
    assert is_one_value(good)
    assert is_one_value(b"\x81\xa1a\xa2\xff\xfe")  # strings are not checked
    for bad in (b"", good[:-1], good + b"\x00", b"\xc1", good + good, b"\x91" * 100_000):
        assert not is_one_value(bad)
