"""The methods of the admin socket (MessagePack-RPC), for `tykpy status`, `tykpy reload` and monitoring."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tykpy.broker.catalog.bundle_names import BundleNames, hashes_of
from tykpy.broker.catalog.description import Description, bundle_problems
from tykpy.broker.errors import ConfigError, DispatchError, ReloadError
from tykpy.broker.msgpackrpc.server import Reply, RpcMethod, decoded
from tykpy.broker.observe.recorder import record_methods
from tykpy.broker.observe.source import SnapshotSource
from tykpy.broker.parts import Parts
from tykpy.broker.pool.reload import ReloadOutcome
from tykpy.broker.router.deaths import Quarantine
from tykpy.ipc.description import MAX_BUNDLE_NAME
from tykpy.ipc.frame import Status
from tykpy.ipc.text import bounded
from tykpy.telemetry.names import annotated
from tykpy.telemetry.stacks import stacks_of_process


class AdminMethods:
    """The methods: each takes decoded params and a reply, or raises DispatchError."""

    def __init__(
        self, parts: Parts, snapshots: SnapshotSource, tasks: Callable[[], Iterable[asyncio.Task[Any]]]
    ) -> None:
        """`tasks`: those of the broker's event loops."""
        self._parts = parts
        self._supervisor = parts.supervisor
        self._names = parts.supervisor.names
        self._snapshots = snapshots
        self._tasks = tasks

    def table(self) -> dict[str, RpcMethod]:
        """Return the methods by name, for a server."""
        methods = (
            self.ping, self.hooks, self.status, self.snapshot, self.reload, self.scale, self.log_level, self.stacks,
        )  # fmt: skip
        own = {method.__name__: decoded(method) for method in methods}
        return own | record_methods(self._parts.recorder)

    def ping(self, _params: list[Any], reply: Reply) -> None:
        """Answer "pong"."""
        reply.answer("pong")

    def hooks(self, _params: list[Any], reply: Reply) -> None:
        """Answer all bundles in the folder, with their hooks."""
        self._names.refresh()
        loaded = describe_hooks(self._supervisor.served, self._parts.router.quarantine)
        unloaded = {} if self._parts.discovery is None else self._parts.discovery.unloaded()
        reply.answer(self._named([*loaded, *(_unloaded(name, why) for name, why in unloaded.items())]))

    def status(self, _params: list[Any], reply: Reply) -> None:
        """Answer the broker's state."""
        reply.answer(describe(self._parts))

    def snapshot(self, _params: list[Any], reply: Reply) -> None:
        """Answer an encoded snapshot of this moment."""
        reply.answer(self._snapshots.renew().data)

    def reload(self, _params: list[Any], reply: Reply) -> None:
        """Reload, and answer what was loaded."""

        def done(outcome: ReloadOutcome) -> None:
            if isinstance(outcome, ReloadError):
                reply.fail(Status.HOOK_FAILED, annotated(str(outcome), self._names.texts))
            else:
                reply.answer({**outcome, "bundles": self._named(outcome["bundles"])})

        self._parts.reloader.request(done)

    def scale(self, params: list[Any], reply: Reply) -> None:
        """Change the number of workers."""
        if len(params) != 1 or type(params[0]) is not int:
            raise DispatchError(Status.INVALID, "takes one number, of workers")
        with _refused():
            self._supervisor.scale(params[0])
        reply.answer({"workers": self._supervisor.wanted})

    def log_level(self, params: list[Any], reply: Reply) -> None:
        """Change the log level for some seconds."""
        if len(params) != 2 or type(params[0]) is not str or type(params[1]) not in (int, float):
            raise DispatchError(Status.INVALID, "takes a level and a number of seconds")
        with _refused():
            self._parts.log_level.change(*params)
        reply.answer(self._parts.log_level.describe())

    def stacks(self, params: list[Any], reply: Reply) -> None:
        """Answer the stacks of broker and workers, or of one worker."""
        if len(params) > 1 or any(type(param) is not int for param in params):
            raise DispatchError(Status.INVALID, "takes the number of a worker, or nothing")
        if params and not any(worker.slot == params[0] for worker in self._supervisor.workers):
            raise DispatchError(Status.INVALID, f"there is no worker {params[0]}")
        broker = [] if params else [{"pid": os.getpid(), "stacks": stacks_of_process(self._tasks())}]
        self._supervisor.ask_for_stacks(lambda workers: reply.answer({"broker": broker, "workers": workers}), *params)

    def _named(self, bundles: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add the names of bundles and APIs that people know."""
        return [{**bundle, **self._names.describe(bundle["hashes"])} for bundle in bundles]


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise DispatchError(Status.INVALID, str(error)) from error


def describe(parts: Parts) -> dict[str, Any]:
    """Return the broker's state: process, workers, dispatches and events by outcome, queue, and disabled hooks."""
    router, supervisor, oversize = parts.router, parts.supervisor, parts.oversize
    supervisor.names.refresh()
    return {
        "pid": os.getpid(),
        "wanted": supervisor.wanted,
        "workers": supervisor.describe(),
        "restarts": supervisor.restarts,
        "recycled": parts.recycler.recycled,
        "bundles": [_outline(bundle, supervisor.names) for bundle in supervisor.served],
        "reload": parts.reloader.last,
        "upgrade": parts.upgrade.last,
        "log": parts.log_level.describe(),
        "waiting": router.waiting,
        "under_way": router.under_way,
        "held_bytes": router.held,
        "arriving": {"bytes": parts.arriving.bytes, "refused": parts.arriving.refused},
        "too_large": {"requests": oversize.requests, "answers": oversize.answers, "abandoned": oversize.abandoned},
        "draining": router.draining,
        "dispatches": router.counters.as_dict(),
        "events": parts.events.describe(),
        "storage": supervisor.describe_storage(),
        "quarantine": router.quarantine.describe(),
    }


def describe_hooks(description: Description, quarantine: Quarantine) -> list[dict[str, Any]]:
    """Return the bundles with their hooks; `refused`: why a hook is not run, `quarantined`: dispatches that are not."""
    if not quarantine.active:
        return description
    return [_with_refusals(bundle, quarantine) for bundle in description]


def _outline(bundle: dict[str, Any], names: BundleNames) -> dict[str, Any]:
    """Return a bundle for `tykpy status`: who uses it, how many workers have loaded it, and why others have not."""
    problems = bundle.get("elsewhere") or list(bundle_problems(bundle))
    facts = {key: bundle[key] for key in ("name", "version", "loaded_in", "workers", "saved_copy")}
    return {**facts, **names.describe(bundle["hashes"]), "problems": problems}


def _unloaded(name: str, why: str) -> dict[str, Any]:
    """Describe an entry of the folder that no worker has loaded like one that is loaded."""
    return {
        "name": bounded(name, MAX_BUNDLE_NAME),
        "hashes": hashes_of(name),
        "state": "not loaded",
        "why": why,
        "error": None,
        "hooks": [],
        "faulty": [],
    }


def _with_refusals(bundle: dict[str, Any], quarantine: Quarantine) -> dict[str, Any]:
    hooks = []
    for hook in bundle["hooks"]:
        why = quarantine.why_not_run(bundle["hashes"], hook["name"])
        quarantined = quarantine.count_frames(bundle["hashes"], hook["name"])
        added = {**({"refused": why} if why else {}), **({"quarantined": quarantined} if quarantined else {})}
        hooks.append({**hook, **added})
    return {**bundle, "hooks": hooks}
