"""A hostile worker: whatever it writes affects only itself and the calls that it was given.

Each hook reaches for the channel of its own process and writes something that no worker writes. The caller gets one
error, the worker is ended and replaced with a line in the log that says why, and other workers' calls succeed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker, running_broker
from tests.support.peers.neighbour import Neighbour
from tests.support.vandals import PRELUDE, broker_with_vandals, check_costs_itself
from tykpy.broker.config import MAX_THREADS
from tykpy.client.grpc import GrpcCallError

VANDALS: Final = (
    PRELUDE
    + '''
@Pre
def impossible_tail(request, session, spec):
    channel, _ = find()
    channel._words[layout.TAIL] = 1 << 63
    channel._ring(1)
    wait_for_the_end()

@Pre
def unaligned_tail(request, session, spec):
    channel, _ = find()
    channel._words[layout.TAIL] += 7
    channel._ring(1)
    wait_for_the_end()

@Pre
def noise_for_records(request, session, spec):
    channel, _ = find()
    memory = channel._parts.outbound.memory
    memory[HEADER:HEADER + 4096] = os.urandom(4096)
    channel._words[layout.TAIL] += 4096
    channel._ring(1)
    wait_for_the_end()

@Pre
def tokens_without_records(request, session, spec):
    channel, _ = find()
    channel._ring((1 << 64) - 2)
    wait_for_the_end()

@Pre
def answer_to_nothing(request, session, spec):
    channel, seq = find()
    channel.answer(0, seq + 1_000_000, (b"", None), False, 0)
    wait_for_the_end()

@Pre
def answers_twice(request, session, spec):
    push(layout.RecordType.ERR, b"\\xc1", times=2)

@Pre
def record_of_a_wrong_type(request, session, spec):
    push(layout.RecordType.REQ, b"x")

@Pre
def spill_of_a_wrong_length(request, session, spec):
    push(layout.RecordType.SPILL_RESP, b"x")

@Pre
def spill_that_is_not_there(request, session, spec):
    push(layout.RecordType.SPILL_RESP, b"\\xff" * layout.SPILL_PLACE.size)

@Pre
def forged_tokens(request, session, spec):
    channel, _ = find()
    with open(f"/proc/self/fd/{channel._parts.requests._reader}", "wb", buffering=0) as writer:
        writer.write(bytes(4096))
    wait_for_the_end()

@Pre
def full_doorbell(request, session, spec):
    channel, _ = find()
    writer = os.open(f"/proc/self/fd/{channel._parts.requests._reader}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        wait_for_the_end()

@Pre
def noise_on_the_control_socket(request, session, spec):
    channel, _ = find()
    channel.control._socket.send(b"\\xff" * 64)
    wait_for_the_end()

@Pre
def unknown_control_message(request, session, spec):
    find()[0].control.send("nonsense", {})
    wait_for_the_end()

@Pre
def hooks_that_are_none(request, session, spec):
    find()[0].control.send("bundle", {"name": 1, "hooks": [{}]})
    wait_for_the_end()

@Pre
def hook_with_an_endless_timeout(request, session, spec):
    hook = {"name": "a", "timeout": float("inf")}
    bundle = {"name": "b", "path": "/b", "version": "", "saved_copy": "", "hashes": [], "error": None, "faulty": []}
    bundle["hooks"] = [hook]
    find()[0].control.send("bundle", {**bundle, "state": "loaded", "more": False})
    wait_for_the_end()

@Pre
def descriptors_on_the_control_socket(request, session, spec):
    channel, _ = find()
    for _ in range(100):
        socket.send_fds(channel.control._socket, [struct.pack("<I", 7) + bytes.fromhex("92a4706f6e67c0")], [0, 1, 2])
    channel.control.send("nonsense")
    wait_for_the_end()

@Pre
def flood_on_the_control_socket(request, session, spec):
    channel, _ = find()
    for _ in range(20_000):
        channel.control.send("pong")
    channel.control.send("nonsense")
    wait_for_the_end()

@Pre
def words_that_mean_nothing(request, session, spec):
    channel, _ = find()
    for word in (layout.STORAGE_STATE, layout.STORAGE_ERRORS, layout.THREADS, layout.LOG_LOST, layout.STORAGE_TIMES):
        channel._words[word] = (1 << 64) - 1
    for slot in range(1, layout.EXECUTION_SLOTS):
        channel._words[layout.ACTIVE_SEQ + slot] = (1 << 64) - 1
        channel._words[layout.ACTIVE_START + slot] = (1 << 64) - 1
    request.add_header("X-Done", "yes")
    return request, session

@Pre
def no_waiting_for_answers(request, session, spec):
    """Let reads of the shared eventfd wait."""
    channel, _ = find()
    os.set_blocking(channel._parts.answers.descriptor, True)
    request.add_header("X-Done", "yes")
    return request, session
'''
)
REASONS: Final = {
    "impossible_tail": "impossible tail",
    "unaligned_tail": "impossible tail",
    "noise_for_records": "cannot be:",
    "tokens_without_records": "a token without a record",
    "answer_to_nothing": "an answer to nothing in flight",
    "answers_twice": "an answer to nothing in flight",
    "record_of_a_wrong_type": "impossible record",
    "spill_of_a_wrong_length": "cannot be:",
    "spill_that_is_not_there": "cannot be:",
    "forged_tokens": "tokens that nobody has rung",
    "full_doorbell": "tokens that nobody has rung",
    "noise_on_the_control_socket": "on its control socket",
    "unknown_control_message": "on its control socket",
    "hooks_that_are_none": "on its control socket",
    "hook_with_an_endless_timeout": "on its control socket",
    "descriptors_on_the_control_socket": "on its control socket",
    "flood_on_the_control_socket": "on its control socket",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Run one broker for all: nothing that a worker has done may matter to the next."""
    with broker_with_vandals(tmp_path_factory.mktemp("broker"), VANDALS) as running:
        yield running


@pytest.mark.parametrize("hook", REASONS)
def test_a_hostile_worker_costs_itself(broker: RunningBroker, hook: str) -> None:
    check_costs_itself(broker, lambda: broker.call(hook, bundle="vandals", timeout=30), REASONS[hook])


@pytest.mark.parametrize("hook", ["words_that_mean_nothing", "no_waiting_for_answers"])
def test_harmless_writes_cost_nothing(broker: RunningBroker, hook: str) -> None:
    restarts = broker.status()["restarts"]
    with Neighbour(broker) as neighbour:
        answer = broker.call(hook, bundle="vandals")
        neighbour.wait_answered()
    assert answer.request.set_headers["X-Done"] == "yes"
    status = broker.status()
    assert status["restarts"] == restarts
    assert all(row["threads"] <= MAX_THREADS for row in status["workers"])


def test_a_hook_of_a_hostile_worker_is_not_run_again_and_again(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"vandals.py": VANDALS}) as broker:
        messages = []
        for number in range(4):
            with pytest.raises(GrpcCallError) as caught:
                broker.call("impossible_tail", bundle="vandals", url=f"/{number}", timeout=30)
            messages.append(caught.value.message)
        assert broker.status()["restarts"] == 3
        assert "while it ran this hook" in messages[0]
        assert "while it ran this hook" not in messages[3]
