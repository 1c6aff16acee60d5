"""Attacks on HTTP/2, with a real broker and real sockets: the attacker is disconnected, others do not notice.

For each attack: the connection ends with the right code, another connection's calls all succeed meanwhile, and the
broker's descriptors and memory come back. What needs time to pass is in `test_http2_slowness.py`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hpack import Encoder

from tests.support.broker import RunningBroker, running_broker
from tests.support.hooks import SOURCE
from tests.support.peers.attacker import Attacker
from tests.support.peers.http2_peer import code_of, data, message, reset, settings, window_update
from tests.support.peers.neighbour import Footprint, Neighbour
from tykpy.broker.http2.errors import ErrorCode
from tykpy.broker.http2.frames import END_HEADERS, END_STREAM, PADDED, FrameType, pack_frame
from tykpy.broker.http2.limits import KIB, MIB
from tykpy.commands.objects import CallDescription, build_object

MOST_LEFT: Final = 24 * MIB
"""Bytes by which an attack may leave the broker larger: memory that its allocator keeps, and bounded caches."""
FRAMES: Final = 200_000
"""Frames of a flood: many times more than any budget allows, so that a broker that takes them all is noticed."""
CALM: Final = ErrorCode.ENHANCE_YOUR_CALM
COMPRESSION: Final = ErrorCode.COMPRESSION_ERROR

Attack = Callable[[Attacker], Iterator[bytes]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_broker(tmp_path_factory.mktemp("attacks"), workers=2, files={"hooks.py": SOURCE}) as running:
        yield running


def odd() -> Iterator[int]:
    return (2 * number + 1 for number in range(FRAMES))


def hello_object() -> bytes:
    return build_object(CallDescription("add_header", bundle="hooks")).SerializeToString()


def same(frame: bytes) -> Attack:
    return lambda _: (frame for _ in range(FRAMES))


def on_a_stream(frame: bytes) -> Attack:
    """Return the same frames on a stream that is open."""

    def attack(attacker: Attacker) -> Iterator[bytes]:
        yield attacker.headers(1)
        yield from (frame for _ in range(FRAMES))

    return attack


def rapid_reset(attacker: Attacker) -> Iterator[bytes]:
    body = hello_object()
    for stream_id in odd():
        yield attacker.request(stream_id, body) + reset(stream_id)


def resets_that_the_broker_sends(attacker: Attacker) -> Iterator[bytes]:
    for stream_id in odd():
        yield attacker.headers(stream_id) + window_update(stream_id, 0)


def streams_without_headers(_: Attacker) -> Iterator[bytes]:
    for stream_id in odd():
        yield pack_frame(FrameType.HEADERS, END_HEADERS | END_STREAM, stream_id)


def endless_header_block(part: bytes) -> Attack:
    def attack(attacker: Attacker) -> Iterator[bytes]:
        yield pack_frame(FrameType.HEADERS, 0, 1, attacker.block())
        yield from (pack_frame(FrameType.CONTINUATION, 0, 1, part) for _ in range(FRAMES))

    return attack


def header_block(make: Callable[[Attacker], bytes]) -> Attack:
    """Return one header block in as many frames as it takes."""

    def attack(attacker: Attacker) -> Iterator[bytes]:
        block = make(attacker)
        parts = [block[at : at + 16 * KIB] for at in range(0, len(block), 16 * KIB)]
        last = len(parts) - 1
        for number, part in enumerate(parts):
            kind = FrameType.CONTINUATION if number else FrameType.HEADERS
            yield pack_frame(kind, END_HEADERS if number == last else 0, 1, part)

    return attack


def table_bomb(_: Attacker) -> bytes:
    return Encoder().encode([("x", "v" * 4000)]) + b"\xbe" * 12_000


def many_fields(attacker: Attacker) -> bytes:
    return attacker.block(*((f"k{number}", "v") for number in range(5000)))[: 60 * KIB]


ATTACKS: dict[str, tuple[Attack, ErrorCode]] = {
    "PING": (same(pack_frame(FrameType.PING, 0, 0, bytes(8))), CALM),
    "SETTINGS": (same(settings()), CALM),
    "SETTINGS that change every stream": (same(settings(initial_window_size=1)), CALM),
    "PRIORITY": (same(pack_frame(FrameType.PRIORITY, 0, 7, bytes(5))), CALM),
    "WINDOW_UPDATE by 1": (same(window_update(0, 1)), CALM),
    "WINDOW_UPDATE of streams": (on_a_stream(window_update(1, 1)), CALM),
    "empty DATA": (on_a_stream(data(1, b"", 0)), CALM),
    "padding": (on_a_stream(data(1, b"\x03" + bytes(3), PADDED)), CALM),
    "unknown frames": (same(pack_frame(0xFA, 0, 0)), CALM),
    "empty HEADERS": (streams_without_headers, CALM),
    "rapid reset": (rapid_reset, CALM),
    "resets that the broker sends": (resets_that_the_broker_sends, CALM),
    "empty CONTINUATION": (endless_header_block(b""), CALM),
    "full CONTINUATION": (endless_header_block(bytes(16 * KIB)), CALM),
    "HPACK table bomb": (header_block(table_bomb), CALM),
    "header list": (header_block(many_fields), CALM),
    "huge HPACK index": (header_block(lambda _: b"\xff" * 16 * KIB), COMPRESSION),
    "huge HPACK length": (header_block(lambda _: b"\x00\x7f" + b"\xff" * 60 * KIB), COMPRESSION),
    "huge HPACK table": (header_block(lambda _: b"\x3f" + b"\xff" * 60 * KIB), COMPRESSION),
    "HPACK size updates": (header_block(lambda _: b"\x20" * 60 * KIB), COMPRESSION),
    "Huffman junk": (header_block(lambda _: b"\x00\x84" + b"\xff" * 4), COMPRESSION),
    "windows above the maximum": (same(window_update(0, 2**31 - 1)), ErrorCode.FLOW_CONTROL_ERROR),
    "DATA above the window": (
        lambda attacker: iter([*(data(1, bytes(16 * KIB), 0) for _ in range(FRAMES // 100)), attacker.headers(1)]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a frame above the limit": (lambda _: iter([b"\xff\xff\xff\0\0\0\0\0\1" + bytes(KIB)]), ErrorCode.FRAME_SIZE_ERROR),
    "frames of streams that never were": (lambda _: iter([reset(99)]), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("attack", "code"), ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attacker_is_disconnected_and_others_are_served(
    broker: RunningBroker, attack: Attack, code: ErrorCode
) -> None:
    before = Footprint(broker)
    with Neighbour(broker) as neighbour, Attacker(str(broker.socket)) as attacker:
        frames = attacker.flood(attack(attacker))
        assert code_of(frames, FrameType.GOAWAY) == code
        neighbour.wait_answered()
    before.check_back(MOST_LEFT)


def test_a_stream_above_its_window_is_reset_alone(broker: RunningBroker) -> None:
    with Attacker(str(broker.socket)) as attacker:
        # Read nothing from here on, so that credit that comes back is not used.
        body = b"\0" + (16 * MIB).to_bytes(4, "big")
        attacker.send(attacker.headers(1), data(1, body, 0), *(data(1, bytes(16 * KIB), 0) for _ in range(64)))
        attacker.send(attacker.request(3, hello_object()), pack_frame(FrameType.GOAWAY, 0, 0, bytes(8)))
        attacker.send(reset(1))
        frames = attacker.read_to_end()
        assert any(frame.stream_id == 3 and frame.flags & END_STREAM for frame in frames)


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(24)])
def test_another_protocol_is_sent_away_at_its_first_byte(broker: RunningBroker, start: bytes) -> None:
    with Attacker(str(broker.socket), hello=start) as attacker:
        assert code_of(attacker.read_to_end(), FrameType.GOAWAY) == ErrorCode.PROTOCOL_ERROR


def test_a_flood_of_bad_connections_does_not_fill_the_log(broker: RunningBroker) -> None:
    before = broker.log.count("(PROTOCOL_ERROR)")
    for _ in range(50):
        with Attacker(str(broker.socket), hello=b"nonsense") as attacker:
            attacker.read_to_end()
    assert broker.log.count("(PROTOCOL_ERROR)") <= before + 1
    assert "(PROTOCOL_ERROR)" in broker.log


def test_answers_to_a_peer_that_does_not_read_are_bounded(broker: RunningBroker) -> None:
    """1 GiB of answers with the windows wide open, of which the peer reads nothing."""
    size, calls = 4 * MIB, 256
    body = build_object(CallDescription("add_header", bundle="hooks", body=bytes(size))).SerializeToString()
    parts = [message(body)[at : at + 16 * KIB] for at in range(0, len(body), 16 * KIB)]
    before = Footprint(broker)
    largest = 0
    with Neighbour(broker) as neighbour, Attacker(str(broker.socket)) as attacker:
        attacker.send(settings(initial_window_size=2**31 - 1), window_update(0, 2**31 - 1 - 65_535))
        attacker._socket.settimeout(1.0)
        stopped_at = 2 * calls
        try:
            for stream_id in range(1, 2 * calls, 2):
                attacker.send(
                    attacker.headers(stream_id), *(data(stream_id, part, 0) for part in parts), data(stream_id, b"")
                )
                largest = max(largest, before.grown())
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            stopped_at = stream_id
        neighbour.wait_answered()
        assert stopped_at < calls, "it was read from although it did not read"
        assert largest < 200 * MIB
    before.check_back(96 * MIB)


def test_surplus_connections_are_told_the_reason(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--max-connections", "20", files={"hooks.py": SOURCE}) as broker:
        before = Footprint(broker)
        with Neighbour(broker) as neighbour:
            attackers = [Attacker(str(broker.socket)) for _ in range(100)]
            for attacker in attackers[19:]:
                frames = attacker.read_to_end()
                assert not frames or code_of(frames, FrameType.GOAWAY) == CALM
            told = [attacker for attacker in attackers[19:] if attacker.frames()]
            assert told
            assert not any(attacker.ended for attacker in attackers[:19])
            neighbour.wait_answered()
            for attacker in attackers:
                attacker.close()
        before.check_back(MOST_LEFT)
        assert broker.log.count("too many connections (--max-connections)") == 1
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
