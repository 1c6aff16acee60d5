"""An echoing worker: `python -m tests.integration.channel_worker ARGUMENT THREADS [KILL_POINT]`.

With a kill point (`tests/support/kill_points.py`), it kills itself with SIGKILL there, during its second request.
"""

import os
import sys
from threading import Lock, Thread
from typing import Final

from tests.support.kill_points import arm, reach
from tykpy.ipc.channel.messages import Request
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.errors import ControlClosedError

KILLED_REQUEST: Final = 2


def say(line: str) -> None:
    """Write a line in one call, because several threads write."""
    os.write(1, f"{line}\n".encode())


def claim(channel: WorkerChannel, slot: int, lead: Lock) -> Request | None:
    """Claim a request, one thread at a time."""
    with lead:
        return channel.claim(slot)


def serve(channel: WorkerChannel, slot: int, lead: Lock, point: str) -> None:
    """Echo requests until the channel says stop."""
    executed = 0
    while (request := claim(channel, slot, lead)) is not None:
        executed += 1
        if point and executed == KILLED_REQUEST - 1:
            arm(channel, point)
        elif executed == KILLED_REQUEST:
            reach("running")
        channel.answer(slot, request.seq, request.payload, False, 1)


def listen(channel: WorkerChannel) -> None:
    """Print a line when the broker is gone."""
    try:
        while channel.control.receive():
            """Ignore: control messages are not needed here."""
    except ControlClosedError:
        say("the broker is gone")


def main(argument: str, threads: str, point: str = "") -> None:
    """Attach to the channel, report ready, serve until stopped."""
    channel = WorkerChannel.attach(argument)
    Thread(target=listen, args=(channel,), daemon=True).start()
    channel.control.send("ready", {"pid": os.getpid()})
    lead = Lock()
    servers = [Thread(target=serve, args=(channel, slot, lead, point)) for slot in range(int(threads))]
    for thread in servers:
        thread.start()
    for thread in servers:
        thread.join()
    say("claim returned None")


if __name__ == "__main__":
    main(*sys.argv[1:])
