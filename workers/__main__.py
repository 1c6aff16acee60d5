"""A worker process: attach to the channel, receive the configuration, load the bundles, report them, serve.

Forked by a zygote, which the broker starts as `python -P -m tykpy.workers orders:SOCKET LIFE`; or started by the broker
itself, as `python -P -m tykpy.workers CHANNEL LIFE`. It is of no use when started by hand.
"""

import atexit
import logging
import os
import sys
from _thread import start_new_thread  # by name: a bundle may have replaced it (gevent.monkey)
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from tyk import gateway
from tykpy.bundles import forked
from tykpy.bundles.errors import WorkersError
from tykpy.bundles.files.signature import PublicKey
from tykpy.bundles.files.versions import VersionCopies
from tykpy.bundles.load_guard import LoadGuard
from tykpy.bundles.load_observer import LoadObserver
from tykpy.bundles.plugin_errors import described
from tykpy.bundles.registry import BundleStore
from tykpy.ipc.channel.worker_end import WorkerChannel
from tykpy.ipc.errors import ControlClosedError
from tykpy.ipc.exits import WorkerExit
from tykpy.ipc.orders import ARGUMENT as ORDERS_ARGUMENT
from tykpy.ipc.title import set_title, worker_title
from tykpy.telemetry.log import (
    Log,
    attribute_records,
    configure_log,
    dump_descriptor,
    explain_in_log,
    open_log,
    show_lost_records,
)
from tykpy.telemetry.records import Source
from tykpy.telemetry.tracing import TracingError
from tykpy.workers.dispatch.log_fields import running_fields
from tykpy.workers.dispatch.prepare import HookDispatcher
from tykpy.workers.events import SentEvents
from tykpy.workers.lifespan import Lifespan
from tykpy.workers.plugin_metrics import SentMetrics
from tykpy.workers.process import rlimits, signal_origin, stdio
from tykpy.workers.process.lifeline import end_with_broker
from tykpy.workers.process.plugin_signals import confine_handlers
from tykpy.workers.process.signals import answer_stacks_to, dump_stacks_to, release_children, watch_signals
from tykpy.workers.serve import WorkerLoop
from tykpy.workers.storage import open_storage
from tykpy.workers.storage.failures import Health
from tykpy.workers.zygote import fork_loop

if TYPE_CHECKING:
    from tykpy.workers.tracing import WorkerSpans

log = Log("tykpy.worker")

UNPACKED_FOLDER: Final = "unpacked"
"""Below the runtime folder: the contents of bundles that are ZIPs."""


def main() -> int:
    """Be a zygote or run one worker; returns its exit code."""
    if len(sys.argv) != 3:
        print("tykpy's workers are started by `tykpy broker`", file=sys.stderr)
        return WorkerExit.USAGE
    argument, life = sys.argv[1], int(sys.argv[2])
    watch_signals()
    if argument.startswith(ORDERS_ARGUMENT):
        argument_of_child = fork_loop(int(argument.removeprefix(ORDERS_ARGUMENT)), life)
        return WorkerExit.DONE if argument_of_child is None else _run(argument_of_child, life)
    return _run(argument, life)


def _run(argument: str, life: int) -> int:
    # Signals that a plugin sends to its own process group must not reach the broker.
    os.setpgid(0, 0)
    watch = end_with_broker(life)
    os.close(life)
    channel = WorkerChannel.attach(argument)
    answer_stacks_to(channel.stacks_fd)
    signal_origin.note_with(channel.note_signal)
    set_title(worker_title(channel.identity.slot))
    release_children()
    rlimits.be_first_without_memory()
    # The arguments that a plugin sees.
    sys.argv[:] = ["tykpy-worker"]
    stdio.take_over()
    open_log(Source("worker", channel.identity.slot))
    try:
        events, metrics = SentEvents(channel.control), SentMetrics(channel.control)
        loads = LoadObserver(channel.control.send, LoadGuard((*channel.descriptors, watch)))
        config = _configuration(channel, loads)
        metrics.open(send=config["metrics"])
        worker, dispatcher, lifespan, spans = _prepare(channel, config, events, loads)
    except ControlClosedError:
        return WorkerExit.DONE
    except BaseException as error:
        # The message of our own errors is enough; the broker logs it.
        if not isinstance(error, WorkersError):
            log.exception("cannot start")
        channel.control.send("failed", {"message": described(error)})
        return WorkerExit.CANNOT_START
    worker.run(dispatcher, lifespan)
    events.finish()
    metrics.finish()
    if spans is not None:
        spans.close()
    return WorkerExit.DONE


def _configuration(channel: WorkerChannel, loads: LoadObserver) -> dict[str, Any]:
    """Wait for the configuration; what not to import, and what to load first, comes before it."""
    config: dict[str, Any] | None = None
    while config is None:
        for message in channel.control.receive():
            if message.name == "broken":
                loads.block(message.body)
            elif message.name == "watch":
                loads.watch(message.body)
            elif message.name == "configure":
                config = cast(dict[str, Any], message.body)
            elif message.name == "names" and config is not None:
                # A newer list came in the same read.
                config["names"] = message.body
            elif message.name == "log_level" and config is not None:
                config["log_level"] = message.body
    return config


def _open_spans(slot: int) -> "WorkerSpans | None":
    """Start to trace; return None if that is not possible."""
    from tykpy.workers.tracing import WorkerSpans

    try:
        return WorkerSpans(slot)
    except TracingError as error:
        log.error("this worker does not trace: %s", error)
        return None


def _path(name: bytes) -> Path:
    return Path(os.fsdecode(name))


def _prepare(
    channel: WorkerChannel, config: dict[str, Any], events: SentEvents, loads: LoadObserver
) -> tuple[WorkerLoop, HookDispatcher, Lifespan, "WorkerSpans | None"]:
    """Load and start all bundles, then report that the worker is ready."""
    path = _path(config["log_file"]) if config["log_file"] else None
    configure_log(config["log_level"], config["log_format"], path)
    explain_in_log(config["names"])
    attribute_records(running_fields)
    show_lost_records(channel.show_log_lost)
    # This logger would write the metadata of calls.
    logging.getLogger("hpack").setLevel(logging.WARNING)
    # A worker that hangs or crashes must not wait for a log reader that has stopped.
    dump_stacks_to(dump_descriptor())
    budget = rlimits.apply(config["limits"], config["least_threads"])
    # Before any bundle is loaded, as with the threads below.
    spans = _open_spans(channel.identity.slot) if config["tracing"] else None
    worker = WorkerLoop(channel, config["threads"], budget, config["slow_hook"])
    confine_handlers()
    runtime_dir = _path(config["runtime_dir"])
    health = Health(channel.show_storage)
    storage = open_storage(config["redis"], runtime_dir, health, channel.count_storage)
    if spans is not None:
        storage = spans.trace_storage(storage, "redis" if config["redis"] else "sqlite", health)
    gateway.install(storage=storage, trigger=events.trigger, log=stdio.PluginLog().log)
    left: list[gateway.Backend] = []

    def abandon() -> None:
        worker.abandon()
        # Its connections do not survive a fork, and its state is in the worker's memory. A fork must not close it.
        left.append(gateway.install(storage=open_storage(config["redis"], runtime_dir)))

    forked.watch(abandon)
    sources = [_path(config["bundles"])] if config["bundles"] else []
    public_key = PublicKey.read(_path(config["public_key"])) if config["public_key"] else None
    saved = VersionCopies.read(_path(config["saved"]) if config["saved"] else None, pinned=config["pinned"])
    store = BundleStore(sources, runtime_dir / UNPACKED_FOLDER, public_key, observer=loads, saved=saved)
    atexit.register(store.close)
    lifespan = Lifespan(worker.run_async)
    loads.start = lifespan.start
    store.load_all()
    store.sweep()
    dispatcher = HookDispatcher(store, spans)
    channel.borrow_bodies()
    channel.control.send("ready")
    if config["check_storage"]:
        # Report an unreachable storage now, and not when the first hook needs it.
        start_new_thread(storage.check, ())
    return worker, dispatcher, lifespan, spans


if __name__ == "__main__":
    sys.exit(main())
