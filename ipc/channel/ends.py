"""What broker and worker say to each other: `BrokerChannel` and `WorkerChannel`, one pair per worker generation.

A channel is two rings, two doorbells, a control socket and a socket for spills. Both classes live in files of
their own; the rest of tykpy imports them from here, except workers, which have no use for the other end.
"""

from tykpy.ipc.channel.broker_end import BrokerChannel, WorkerStatus
from tykpy.ipc.channel.messages import Answer, ChannelOptions, Request
from tykpy.ipc.channel.worker_end import WorkerChannel

__all__ = ["Answer", "BrokerChannel", "ChannelOptions", "Request", "WorkerChannel", "WorkerStatus"]
