"""A broker that starts one echoing worker, prints "ready" and waits to be killed."""

import subprocess
import sys

from tests.integration.test_channel_two_processes import wait_for_control
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import ChannelOptions


def main() -> None:
    """Start a worker and wait to be killed."""
    channel = BrokerChannel.create(slot=0, generation=1, epoch=1, options=ChannelOptions())
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.channel_worker", channel.worker_argument(), "2"],
        pass_fds=channel.worker_fds,
    ):
        channel.close_worker_ends()
        wait_for_control(channel)
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
