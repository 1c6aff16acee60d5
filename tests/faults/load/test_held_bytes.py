"""Requests above the limit of held bytes are refused at once on both front ends, and served again later."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, wait_until
from tests.support.hooks import SOURCE, Gate
from tests.support.peers.attacker import Attacker
from tests.support.peers.front_ends import FRONT_ENDS, CallError, both_listeners
from tests.support.peers.http2_peer import data
from tykpy.commands.objects import CallDescription, build_object

MIB = 1024 * 1024
FLAGS = ("--max-message", str(MIB), "--queue-bytes", str(3 * MIB))
BIG = bytes(MIB * 9 // 20)
"""An Object has the body twice: three Objects may be held."""
BEGUN = b"\0" + MIB.to_bytes(4, "big") + bytes(16 * 1024 - 5)
"""The first frame of a message of 1 MiB."""
MORE = bytes(16 * 1024)


def broker_of(folder: Path) -> RunningBroker:
    broker = both_listeners(RunningBroker(folder, *FLAGS))
    broker.add_file("hooks.py", SOURCE)
    return broker


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_big_calls_beyond_the_limit_are_answered_at_once(tmp_path: Path, name: str) -> None:
    gate = Gate(tmp_path)
    with broker_of(tmp_path) as broker, ThreadPoolExecutor(3) as callers:
        description = CallDescription("gated", bundle="hooks", headers=gate.headers(), body=BIG)
        held = [callers.submit(broker.dispatch, build_object(description)) for _ in range(3)]
        wait_until(lambda: broker.status()["under_way"] == 3, lambda: str(broker.status()))
        assert 6 * len(BIG) < broker.status()["held_bytes"] <= 3 * MIB
        with FRONT_ENDS[name](broker).connect() as client:
            with pytest.raises(CallError, match=r"wait or run already \(--queue-bytes\)") as caught:
                client.dispatch(build_object(CallDescription("add_header", bundle="hooks", body=BIG)))
            assert caught.value.code in {"RESOURCE_EXHAUSTED", "OVERLOADED"}
            assert broker.status()["dispatches"]["refused"] == 1
            gate.open()
            assert [len(call.result().request.raw_body) for call in held] == [len(BIG)] * 3
            assert client.dispatch(build_object(CallDescription("add_header", bundle="hooks", body=BIG)))
        assert broker.status()["held_bytes"] == 0


def test_unfinished_big_requests_block_only_other_big_ones(
    tmp_path: Path,
) -> None:
    with broker_of(tmp_path) as broker:
        peers = [Attacker(str(broker.socket)) for _ in range(4)]
        for peer in peers:
            peer.send(peer.headers(1), data(1, BEGUN, 0), *(data(1, MORE, 0) for _ in range(62)))
        wait_until(lambda: broker.status()["arriving"]["refused"] == 1, lambda: str(broker.status()))
        assert 2 * MIB < broker.status()["arriving"]["bytes"] <= 3 * MIB
        assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
        for peer in peers:
            peer.close()
        wait_until(lambda: broker.status()["arriving"]["bytes"] == 0, lambda: str(broker.status()))
        assert broker.call("add_header", bundle="hooks", body=BIG)
