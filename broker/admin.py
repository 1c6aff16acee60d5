"""The methods of the admin socket, which `tykpy status`, `tykpy hooks` and monitoring call (MessagePack-RPC)."""

import dataclasses
import os
from typing import Any

from broker.msgpackrpc import Handler, Reply
from broker.router import Router
from broker.supervisor import Supervisor


def admin_methods(router: Router, supervisor: Supervisor) -> dict[str, Handler]:
    """The table of methods: `ping`, `hooks`, `status`."""

    def ping(_params: list[Any], reply: Reply) -> None:
        reply.answer("pong")

    def hooks(_params: list[Any], reply: Reply) -> None:
        reply.answer(router.hooks.description)

    def status(_params: list[Any], reply: Reply) -> None:
        reply.answer(describe(router, supervisor))

    return {"ping": ping, "hooks": hooks, "status": status}


def describe(router: Router, supervisor: Supervisor) -> dict[str, Any]:
    """The broker's state: process, workers, dispatches by outcome, and what waits."""
    return {
        "pid": os.getpid(),
        "workers": supervisor.describe(),
        "restarts": supervisor.restarts,
        "waiting": router.waiting,
        "under_way": router.under_way,
        "draining": router.draining,
        "dispatches": dataclasses.asdict(router.counters),
    }
