"""The load generator's HTTP/2 against frames written by hand, and against the server core of the broker."""

import re
from collections.abc import Iterator

import pytest
from hpack import Decoder

from tykpy.bench.errors import BenchError
from tykpy.bench.load import traceparents
from tykpy.bench.wire import LoadConnection
from tykpy.broker.codes import GrpcCode
from tykpy.broker.grpc.wire import ANSWER, MESSAGE_PREFIX, pack_status, pack_trailers_only
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    FRAME_HEAD_SIZE,
    PREFACE,
    FrameType,
    pack_frame,
    pack_goaway,
    pack_reset,
    pack_window_update,
)
from tykpy.broker.http2.settings import SettingId, parse_settings

KIB = 1024
LAST = END_HEADERS | END_STREAM


def frames_of(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, stream id, payload) of each frame."""
    at = 0
    while at < len(data):
        high, low, kind, flags, stream_id = FRAME_HEAD.unpack_from(data, at)
        at += FRAME_HEAD_SIZE
        end = at + (high << 8 | low)
        yield kind, flags, stream_id, data[at:end]
        at = end


def settings(**values: int) -> bytes:
    payload = b"".join(SettingId[name].to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items())
    return pack_frame(FrameType.SETTINGS, 0, 0, payload)


def answer(stream_id: int, message: bytes = b"yes") -> bytes:
    return (
        pack_frame(FrameType.HEADERS, END_HEADERS, stream_id, ANSWER.headers)
        + pack_frame(FrameType.DATA, 0, stream_id, MESSAGE_PREFIX.pack(0, len(message)) + message)
        + pack_frame(FrameType.HEADERS, LAST, stream_id, ANSWER.trailers)
    )


def connected(message: bytes = b"hello", **values: int) -> LoadConnection:
    connection = LoadConnection([message])
    connection.take_output()
    connection.receive(settings(**values))
    connection.take_output()
    return connection


def test_it_begins_with_the_preface_and_its_settings() -> None:
    data = LoadConnection([b""]).take_output()
    assert data.startswith(PREFACE)
    first, second = frames_of(data[len(PREFACE) :])
    assert first[0] == FrameType.SETTINGS
    assert (SettingId.HEADER_TABLE_SIZE, 0) in parse_settings(first[3])
    assert second[0] == FrameType.WINDOW_UPDATE


def test_the_servers_settings_are_acknowledged() -> None:
    connection = LoadConnection([b""])
    connection.take_output()
    assert not connection.ready
    connection.receive(settings(MAX_CONCURRENT_STREAMS=7))
    assert connection.ready
    assert connection.max_streams == 7
    assert list(frames_of(connection.take_output())) == [(FrameType.SETTINGS, ACK, 0, b"")]


def test_calls_are_the_same_frames_on_odd_streams() -> None:
    connection = connected(b"hello")
    assert list(connection.start_calls(2)) == [1, 3]
    assert list(connection.start_calls(1)) == [5]
    frames = list(frames_of(connection.take_output()))
    assert [frame[2] for frame in frames] == [1, 1, 3, 3, 5, 5]
    assert frames[0][:2] == (FrameType.HEADERS, END_HEADERS)
    assert frames[1] == (FrameType.DATA, END_STREAM, 1, b"\0\0\0\0\x05hello")
    assert frames[0][3] == frames[2][3] == frames[4][3]


@pytest.mark.parametrize("size", [1, 5, 9, 17, 10_000])
def test_answers_are_counted_however_the_bytes_are_cut(size: int) -> None:
    connection = connected()
    connection.start_calls(3)
    data = answer(3) + pack_frame(FrameType.PING, ACK, 0, b"12345678") + answer(1) + answer(5)
    good: list[int] = []
    for at in range(0, len(data), size):
        good += connection.receive(data[at : at + size]).good
    assert good == [3, 1, 5]
    assert connection.bytes_received == 3 * (5 + len(b"yes"))


def test_messages_are_called_in_turn() -> None:
    connection = LoadConnection([b"one", b"three"])
    connection.start_calls(1)
    connection.start_calls(2)
    sent = [frame[3] for frame in frames_of(connection.take_output()[len(PREFACE) :]) if frame[0] == FrameType.DATA]
    assert sent == [b"\0\0\0\0\x03one", b"\0\0\0\0\x05three", b"\0\0\0\0\x03one"]


def test_small_messages_do_not_wait_for_large_ones() -> None:
    connection = LoadConnection([b"x" * 20 * KIB, b"small"])
    connection.take_output()
    connection.receive(settings(INITIAL_WINDOW_SIZE=1 * KIB))
    connection.take_output()
    connection.start_calls(4)
    sent = [frame for frame in frames_of(connection.take_output()) if frame[0] == FrameType.DATA]
    assert [frame[2] for frame in sent if frame[1] & END_STREAM] == [3, 7]
    assert [(frame[2], len(frame[3])) for frame in sent if not frame[1]] == [(1, KIB), (5, KIB)]
    connection.receive(pack_window_update(5, 20 * KIB) + pack_window_update(1, 20 * KIB))
    assert {frame[2] for frame in frames_of(connection.take_output()) if frame[1] & END_STREAM} == {1, 5}


@pytest.mark.parametrize("body", [b"small", b"x" * 20 * KIB])
def test_every_call_has_a_traceparent_of_its_own(body: bytes) -> None:
    connection = LoadConnection([body], traceparents(10))
    connection.start_calls(3)
    sent = [frame for frame in frames_of(connection.take_output()[len(PREFACE) :]) if frame[0] == FrameType.HEADERS]
    lists = [list(Decoder().decode(frame[3])) for frame in sent]
    assert all(headers[:-1] == lists[0][:-1] for headers in lists)
    names, values = zip(*(headers[-1] for headers in lists), strict=True)
    assert set(names) == {"traceparent"}
    assert len(set(values)) == 3
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", value) for value in values)


def test_every_error_has_code_and_message() -> None:
    connection = connected()
    connection.start_calls(3)
    failed = pack_frame(FrameType.HEADERS, LAST, 1, pack_trailers_only(GrpcCode.NOT_FOUND, "no hook 100 % so"))
    late = pack_frame(FrameType.HEADERS, END_HEADERS, 3, ANSWER.headers)
    late += pack_frame(FrameType.HEADERS, LAST, 3, pack_status(GrpcCode.INTERNAL, ""))
    answers = connection.receive(failed + late + pack_reset(5, ErrorCode.CANCEL))
    assert answers.good == []
    assert answers.failures == [
        (1, "NOT_FOUND: no hook 100 % so"),
        (3, "INTERNAL: "),
        (5, "the server reset the call, HTTP/2 code 8"),
    ]


def test_what_is_not_grpc_is_a_failure() -> None:
    connection = connected()
    connection.start_calls(1)
    (failure,) = connection.receive(pack_frame(FrameType.HEADERS, LAST, 1, b"\x8d")).failures
    assert failure.text == "not gRPC: HTTP status 404"


def test_a_large_body_waits_for_windows() -> None:
    body = bytes(range(256)) * 160  # 40 KiB
    connection = connected(body, INITIAL_WINDOW_SIZE=20 * KIB)
    connection.start_calls(1)
    sent = [frame for frame in frames_of(connection.take_output()) if frame[0] == FrameType.DATA]
    assert [len(frame[3]) for frame in sent] == [16 * KIB, 4 * KIB]
    connection.receive(pack_window_update(1, 5))
    connection.receive(pack_window_update(1, 100 * KIB))
    rest = [frame for frame in frames_of(connection.take_output()) if frame[0] == FrameType.DATA]
    assert [frame[1] for frame in rest] == [0, 0, END_STREAM]
    assert b"".join(frame[3] for frame in sent + rest) == b"\0" + len(body).to_bytes(4, "big") + body


def test_the_connections_window_is_shared_fairly() -> None:
    connection = connected(b"x" * 60_000)
    connection.start_calls(2)
    sent = [(frame[2], len(frame[3])) for frame in frames_of(connection.take_output()) if frame[0] == FrameType.DATA]
    assert [stream_id for stream_id, _ in sent] == [1, 3, 1, 3]
    assert sum(size for _, size in sent) == 65_535
    connection.receive(pack_window_update(0, 100_000))
    ended = [frame[2] for frame in frames_of(connection.take_output()) if frame[1] & END_STREAM]
    assert ended == [1, 3]


def test_an_upload_whose_call_has_failed_is_given_up() -> None:
    connection = connected(b"x" * 60_000, INITIAL_WINDOW_SIZE=10_000)
    connection.start_calls(1)
    connection.take_output()
    connection.receive(pack_reset(1, ErrorCode.REFUSED_STREAM))
    connection.receive(pack_window_update(1, 100_000))
    assert connection.take_output() == b""


def test_pings_are_answered() -> None:
    connection = connected()
    connection.receive(pack_frame(FrameType.PING, 0, 0, b"12345678"))
    assert list(frames_of(connection.take_output())) == [(FrameType.PING, ACK, 0, b"12345678")]


def test_a_server_that_goes_away_ends_the_run() -> None:
    with pytest.raises(BenchError, match="too many of them"):
        connected().receive(pack_goaway(0, ErrorCode.ENHANCE_YOUR_CALM, "too many of them"))


def test_trailers_that_do_not_decode_end_the_run() -> None:
    with pytest.raises(BenchError, match="do not decode"):
        connected().receive(pack_frame(FrameType.HEADERS, LAST, 1, b"\xff\xff\xff\xff\xff\xff"))
