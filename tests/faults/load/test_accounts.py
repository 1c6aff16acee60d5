"""Peers that misbehave in every way, on a real broker: afterwards none of their requests is counted.

`tests/property/test_accounts.py` plays far more of it against the same code, without processes.
"""

import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgpack
import pytest

from tests.support.broker import PATIENCE, RunningBroker
from tests.support.hooks import SOURCE
from tests.support.peers.attacker import Attacker
from tests.support.peers.front_ends import both_listeners
from tests.support.peers.http2_peer import data, message, reset
from tykpy.commands.objects import CallDescription, build_object
from tykpy.workers.objects.msgpack_codec import to_map

MIB: Final = 1024 * 1024
FRAME: Final = 16 * 1024
FLAGS: Final = ("--max-message", str(MIB), "--queue-bytes", str(4 * MIB), "--timeout", "2")
HEALTH: Final = "/grpc.health.v1.Health/Check"
METHODS: Final = ("/coprocess.Dispatcher/Dispatch", HEALTH, "/grpc.health.v1.Health/Watch")
HOOKS: Final = ("add_header", "add_header", "raises", "waits_forever", "dies")
SIZES: Final = (0, 20_000, 300_000)


class Peers:
    """Connections that come, do something and hang up, chosen by a seed."""

    def __init__(self, broker: RunningBroker, seed: int) -> None:
        self._broker = broker
        self._random = random.Random(seed)

    def _bodies(self) -> CallDescription:
        size = self._random.choice(SIZES)
        return CallDescription(self._random.choice(HOOKS), bundle="hooks", body=bytes(size))

    def grpc(self) -> None:
        """Send requests in pieces on one connection; most do not end as they should."""
        with Attacker(str(self._broker.socket)) as peer:
            for stream_id in range(1, 2 * self._random.randint(1, 6), 2):
                peer.send(*self._request(peer, stream_id))

    def _request(self, peer: Attacker, stream_id: int) -> list[bytes]:
        choose = self._random.choice
        body = message(build_object(self._bodies()).SerializeToString()) * choose((1, 1, 1, 2))
        path, timeout = choose(METHODS), choose(("1n", "50m", "20S"))
        pieces = [data(stream_id, body[at : at + FRAME], 0) for at in range(0, len(body), FRAME)]
        pieces = pieces[: choose((1, 2, 1000))]
        end: list[bytes] = choose(([], [data(stream_id, b"")], [data(stream_id, b"")], [reset(stream_id)]))
        return [peer.headers(stream_id, ("grpc-timeout", timeout), path=path), *pieces, *end]

    def rpc(self) -> None:
        """Send calls on one connection, the last one incomplete."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(str(self._broker.runtime / "rpc.sock"))
            for number in range(self._random.randint(1, 4)):
                options = [{"timeout": self._random.choice((1e-9, 0.05, 20.0))}]
                call = msgpack.packb([0, number, "dispatch", [to_map(build_object(self._bodies())), *options]])
                peer.sendall(call[: self._random.choice((len(call), len(call), len(call) // 2))])

    def play(self, times: int) -> None:
        """Let this many connections come."""
        for _ in range(times):
            peer: Callable[[], None] = self._random.choice((self.grpc, self.grpc, self.rpc))
            try:
                peer()
            except (BrokenPipeError, ConnectionResetError):
                continue  # it has been refused


def play_against_a_broker(folder: Path, times: int) -> None:
    broker = both_listeners(RunningBroker(folder, *FLAGS, workers=2))
    broker.add_file("hooks.py", SOURCE)
    with broker:
        Peers(broker, times).play(times)
        broker.check_accounts()
        # Both bounds still hold: after all that, one call of the largest size is served.
        broker.call("add_header", bundle="hooks", body=bytes(MIB // 3))
        broker.check_accounts()


def test_nothing_stays_counted_after_peers_that_do_anything(tmp_path: Path) -> None:
    play_against_a_broker(tmp_path, 60)


def test_expired_uploads_leave_the_limit_as_it_was(tmp_path: Path) -> None:
    """Subtracted twice, twelve uploads made the total so low that nothing was refused any more."""
    broker = RunningBroker(tmp_path, *FLAGS)
    broker.add_file("hooks.py", SOURCE)
    with broker:
        body = message(
            build_object(CallDescription("add_header", bundle="hooks", body=bytes(MIB // 3))).SerializeToString()
        )
        with Attacker(str(broker.socket)) as peer:
            for stream_id in range(1, 25, 2):
                pieces = [data(stream_id, body[at : at + FRAME], 0) for at in range(0, len(body), FRAME)]
                peer.send(peer.headers(stream_id, ("grpc-timeout", "1n")), *pieces, data(stream_id, b""))
            peer.read_until(lambda frame: frame.stream_id == 23 and frame.kind == 1)
            assert broker.status()["arriving"]["bytes"] == 0


def test_surplus_messages_to_health_are_not_kept(tmp_path: Path) -> None:
    with RunningBroker(tmp_path, *FLAGS) as broker, Attacker(str(broker.socket)) as peer:
        for stream_id in range(1, 41, 2):
            surplus = message(b"") * 2 + b"\0\0\1\0\0" + bytes(1000)
            peer.send(peer.headers(stream_id, path=HEALTH), data(stream_id, surplus, 0))
        frames = peer.read_until(lambda frame: frame.stream_id == 39 and frame.kind == 1)
        assert sum(frame.stream_id == 39 and frame.kind == 1 for frame in frames) == 1
        assert broker.status()["arriving"]["bytes"] == 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_stays_counted_after_20000_such_peers(tmp_path: Path) -> None:
    play_against_a_broker(tmp_path, 20_000)
