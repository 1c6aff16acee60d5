"""A channel between two real processes: no message is lost, and after a kill each request has a known state."""

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.channel_worker import KILLED_REQUEST
from tests.support.kill_points import ANSWERED, EXECUTING, NOT_STARTED
from tests.support.root import ROOT
from tests.unit.ipc.channel.ends import whole
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.control import ControlMessage
from tykpy.ipc.channel.messages import Answer, ChannelOptions

OPTIONS = ChannelOptions(capacity=65536, max_record=4096, max_message=1024 * 1024)
SIZES = (0, 1, 31, 32, 900, 900, 900, 900, 4000, 4064, 4065, 70_000)


def wait_for_control(channel: BrokerChannel) -> list[ControlMessage]:
    """Wait for control messages and return them."""
    select.select([channel.control], [], [])
    return channel.control.receive()


@contextmanager
def echoing(threads: int = 1, point: str = "") -> Iterator[tuple[BrokerChannel, "subprocess.Popen[bytes]"]]:
    """Yield a channel to a worker that is ready, and the worker's process."""
    channel = BrokerChannel.create(slot=1, generation=4, epoch=5, options=OPTIONS)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.channel_worker", channel.worker_argument(), str(threads), point],
        pass_fds=channel.worker_fds,
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    channel.close_worker_ends()
    with process:
        try:
            (said,) = wait_for_control(channel)
            assert (said.name, said.body) == ("ready", {"pid": process.pid})
            yield channel, process
        finally:
            channel.close()
            if process.poll() is None:
                process.kill()


def message(seq: int, chance: random.Random) -> bytes:
    """Return a message of random size, filled with its sequence number."""
    size = chance.choice(SIZES)
    return (b"%d," % seq * (size // 2 + 1))[:size]


def echo(channel: BrokerChannel, count: int, credits_used: int) -> None:
    """Send `count` messages, at most `credits_used` at a time, and check every echo."""
    chance = random.Random(count)
    waiting: dict[int, bytes] = {}
    seq = answered = 0
    while answered < count:
        while seq < count and len(waiting) < credits_used:
            seq += 1
            waiting[seq] = message(seq, chance)
            channel.send(seq, whole(waiting[seq]), 0)
        channel.ring()
        select.select([channel.answers_fd], [], [])
        for answer in channel.receive():
            assert answer == Answer(answer.seq, False, whole(waiting.pop(answer.seq)), 1)
            answered += 1


@pytest.mark.parametrize("threads", [1, 4])
def test_thousands_of_messages_of_all_sizes_come_back(threads: int) -> None:
    with echoing(threads) as (channel, process):
        echo(channel, 4000, OPTIONS.credits)
        assert channel.in_flight() == 0
        assert channel.executing() == frozenset()
        assert not [name for name in os.listdir("/dev/shm") if name.startswith("tykpy-") and "-live-" not in name]
        assert channel.start_drain() == []
        assert process.wait() == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("threads", [1, 16])
def test_half_a_million_messages_come_back(threads: int) -> None:
    with echoing(threads) as (channel, _):
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            echo(channel, 50_000, OPTIONS.credits)
            assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("size", [100, 70_000])
@pytest.mark.parametrize("point", [*NOT_STARTED, *EXECUTING, *ANSWERED])
def test_a_worker_killed_at_any_point_leaves_a_clear_account(point: str, size: int) -> None:
    with echoing(point=point) as (channel, process):
        account = {seq: bytes([seq]) * size for seq in (1, 2, 3)}
        for seq, payload in account.items():
            channel.send(seq, whole(payload), 0)
        channel.ring()
        assert process.wait() == -signal.SIGKILL
        unclaimed = channel.revoke()
        answered = channel.drain()
        executing = channel.executing()
        assert channel.corrupt is None
        assert unclaimed == [3]
        finished = [1, KILLED_REQUEST] if point in ANSWERED else [1]
        assert answered == [Answer(seq, False, whole(account[seq]), 1) for seq in finished]
        assert executing == (frozenset({KILLED_REQUEST}) if point in EXECUTING else frozenset())
        assert channel.in_flight() == (1 if point not in ANSWERED else 0)


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_a_kill_at_any_moment_leaves_one_outcome_per_request(kills: int) -> None:
    chance = random.Random(kills)
    for _ in range(kills):
        with echoing(threads=3) as (channel, process):
            sent: dict[int, bytes] = {}
            outcomes: list[int] = []
            wanted = chance.randrange(1, 400)
            while len(outcomes) < wanted:
                while channel.in_flight() < OPTIONS.credits:
                    seq = len(sent) + 1
                    sent[seq] = message(seq, chance)
                    channel.send(seq, whole(sent[seq]), 0)
                channel.ring()
                select.select([channel.answers_fd], [], [])
                outcomes += check(channel.receive(), sent)
            process.kill()
            process.wait()
            outcomes += channel.revoke()
            outcomes += check(channel.drain(), sent)
            running = channel.executing()
            assert channel.corrupt is None
            assert len(running) <= 3
            not_started = channel.in_flight() - len(running)
            assert 0 <= not_started <= 3
            assert len(outcomes) == len(set(outcomes)) == len(sent) - len(running) - not_started


def check(answers: list[Answer], sent: dict[int, bytes]) -> list[int]:
    """Check that every answer echoes its request; return their sequence numbers."""
    for answer in answers:
        assert answer.payload == whole(sent[answer.seq])
    return [answer.seq for answer in answers]


def test_a_stopped_worker_gives_back_what_it_has_not_claimed() -> None:
    with echoing() as (channel, process):
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        for seq in (1, 2, 3):
            channel.send(seq, whole(bytes(70_000)), 0)
            channel.ring()
        taken_back = channel.revoke()
        assert taken_back in ([1, 2, 3], [2, 3])  # the stopped reader may have taken one token already
        channel.send(4, whole(b"the next"), 0)
        channel.ring()
        os.kill(process.pid, signal.SIGCONT)
        answers: list[Answer] = []
        while channel.in_flight():
            select.select([channel.answers_fd], [], [])
            answers += channel.receive()
        assert answers[-1] == Answer(4, False, whole(b"the next"), 1)
        assert {answer.seq for answer in answers} == {1, 2, 3, 4} - set(taken_back)


def test_a_worker_whose_broker_is_killed_stops_claiming_and_ends() -> None:
    broker = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.channel_broker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with broker:
        assert broker.stdout is not None
        assert broker.stdout.readline() == b"ready\n"
        broker.kill()
        # The worker shares this standard output: end of file means that it has ended as well.
        assert b"claim returned None\n" in broker.stdout.read()
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("tykpy-") and "-live-" not in name]
