"""The parts of a running broker, for those who look at it from outside."""

from typing import Protocol

from tykpy.broker.arriving import Arriving
from tykpy.broker.catalog.discovery import Discovery
from tykpy.broker.events.distributor import EventDistributor
from tykpy.broker.grpc.server import GrpcServer
from tykpy.broker.host.upgrade import Upgrade
from tykpy.broker.log_level import LogLevel
from tykpy.broker.msgpackrpc.server import MsgpackRpcServer
from tykpy.broker.observe.recorder import Recorder
from tykpy.broker.pool.recycling import Recycler
from tykpy.broker.pool.reload import Reloader
from tykpy.broker.pool.supervisor import Supervisor
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.broker.router.router import Router


class Parts(Protocol):
    """What the admin socket describes and controls, and snapshots count: the broker itself has these attributes."""

    router: Router
    arriving: Arriving
    oversize: SizeRefusals
    supervisor: Supervisor
    events: EventDistributor
    reloader: Reloader
    recycler: Recycler
    upgrade: Upgrade
    discovery: Discovery | None
    grpc: GrpcServer
    rpc: MsgpackRpcServer
    log_level: LogLevel
    recorder: Recorder
