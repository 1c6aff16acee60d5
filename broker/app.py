"""The broker as a whole: what is opened, in which order, what runs, and how it ends."""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tykpy.broker.admin import AdminMethods
from tykpy.broker.arriving import Arriving
from tykpy.broker.catalog.description import Description, is_sound
from tykpy.broker.catalog.discovery import Discovery
from tykpy.broker.config import AccessRule, BrokerConfig
from tykpy.broker.end_of_turn import EndOfTurn
from tykpy.broker.errors import BrokerError, ConfigError, UpgradeError
from tykpy.broker.events.distributor import EventDistributor, open_sinks
from tykpy.broker.faults import Periodic, report
from tykpy.broker.grpc.health import BROKER_SERVICES
from tykpy.broker.grpc.server import GrpcServer
from tykpy.broker.host.descriptors import DescriptorWatch, connections_allowed
from tykpy.broker.host.sd_notify import ServiceNotifier
from tykpy.broker.host.upgrade import Upgrade
from tykpy.broker.http2.limits import Limits
from tykpy.broker.log_level import LogLevel
from tykpy.broker.msgpackrpc.methods import dispatch_methods
from tykpy.broker.msgpackrpc.server import MsgpackRpcServer, RpcLimits
from tykpy.broker.net.access import admin_admission, gateway_admission
from tykpy.broker.net.addresses import MSGPACK_PREFIX
from tykpy.broker.net.listeners import Listeners
from tykpy.broker.observe.access_log import AccessLog
from tykpy.broker.observe.live_report import LiveReport
from tykpy.broker.observe.readiness import Readiness, ReadinessLog, serving_statuses
from tykpy.broker.observe.recorder import Recorder
from tykpy.broker.observe.source import SnapshotSource
from tykpy.broker.pool.recycling import Recycler
from tykpy.broker.pool.reload import Reloader
from tykpy.broker.pool.starting import channel_options
from tykpy.broker.pool.supervisor import PoolEvents, Supervisor
from tykpy.broker.pool.trim import TRIM_INTERVAL, trim_memory
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.broker.refused_sizes import SizeRefusals
from tykpy.broker.router.router import Router, RouterOptions
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.errors import SegmentError
from tykpy.telemetry.log import reopen_log
from tykpy.telemetry.records import counted
from tykpy.telemetry.snapshot import BundleState, Snapshot
from tykpy.telemetry.tracing import TracingError, shown_endpoint, shown_sampler

if TYPE_CHECKING:
    from tykpy.broker.tracing.spans import DispatchSpans

if TYPE_CHECKING:
    from tykpy.broker.observe.listener import HttpListener
    from tykpy.broker.observe.statsd import StatsdReporter

log = logging.getLogger("tykpy.broker")

ACCEPT_TIME: Final = 0.05
"""Seconds for connections that were being accepted when we stopped accepting: then they too can be told to go."""
GOODBYE_TIME: Final = 2.0
"""Seconds that peers have to read that they are to go before their calls are refused."""


async def serve(config: BrokerConfig, listeners: Listeners, zygotes: ZygoteKeeper) -> None:
    """Run the broker until it is told to stop. Raises BrokerError."""
    broker = Broker(config, asyncio.get_running_loop(), listeners, zygotes)
    try:
        await broker.open()
        await broker.serve()
    finally:
        await broker.close()


class Broker:
    """Front ends, router and workers of one `tykpy broker`, on sockets that are open already."""

    def __init__(
        self, config: BrokerConfig, loop: asyncio.AbstractEventLoop, listeners: Listeners, zygotes: ZygoteKeeper
    ) -> None:
        self._config = config
        self._loop = loop
        self._listeners = listeners
        self._stop = asyncio.Event()
        self._start_fault: BrokerError | None = None
        """Why the start has failed, if it is a fault of the broker itself."""
        end_of_turn = EndOfTurn(loop)
        self.oversize = SizeRefusals(config.message_limit, config.message_option)
        self._spans = _open_spans() if config.tracing == "on" else None
        self.router = Router(loop, _router_options(config), end_of_turn, self.oversize, self._spans)
        _log_ended(self.router, config.access_rule)
        self.bodies = _open_bodies(config)
        self.arriving = Arriving(config.queue_bytes)
        self.events = EventDistributor(self.router, open_sinks(config))
        pool_events = PoolEvents(self._on_ready_count, self._stop.set, self.events.receive)
        self.supervisor = Supervisor(loop, config, self.router, pool_events, self.bodies, zygotes)
        self.recycler = Recycler(loop, config, self.supervisor)
        self.reloader = Reloader(loop, config, self.supervisor, self.router)
        self.grpc, self.rpc = self._gateway_front_ends(end_of_turn)
        self.upgrade = Upgrade(loop, config.ready_timeout, self._on_upgraded)
        self.discovery = self._discovery()
        self.log_level = LogLevel(loop, config, self.supervisor.set_log_level)
        self.recorder = Recorder(loop, self.router.on_taken, self.router.observers)
        self.snapshots = SnapshotSource(self, Readiness(config.require_bundles), self._on_snapshot)
        self._readiness_log = ReadinessLog()
        self._live_report = LiveReport(loop, config.runtime_dir, self.snapshots)
        self._http = self._http_listener()
        self._statsd = self._statsd_reporter()
        self.admin = MsgpackRpcServer(
            AdminMethods(self, self.snapshots, self._tasks).table(), loop=loop, admission=admin_admission()
        )
        self._front_ends = (self.grpc, self.rpc, self.admin)
        self._notifier = ServiceNotifier.from_environment()
        self.reloader.on_start, self.reloader.on_end = self._on_reload, self._on_reloaded
        self._renewal: asyncio.Task[None] | None = None
        self._all_ready = asyncio.Event()
        self._announced = 0
        """The number of ready workers that was logged last; 0 while one is missing."""

    async def open(self) -> None:
        """Accept connections, then start the workers: calls that arrive meanwhile wait in the queue.

        In an upgrade nothing is accepted before `serve`.
        """
        self._take_signals()
        DescriptorWatch(self._loop, self.supervisor.reserve, self._on_callback_fault).start()
        await self._listeners.serve(self.admin.protocol_factory, self.grpc.protocol_factory, self.rpc.protocol_factory)
        if self._http is not None and self._listeners.handover is None:
            self._start_http(self._http)
        if self.discovery is not None:
            self.discovery.start()
        self.supervisor.start()
        self.recycler.start()
        Periodic(self._loop, TRIM_INTERVAL, self._trim_memory).start()

    async def serve(self) -> None:
        """Serve until a signal says stop, then finish running dispatches within the grace period.

        Raises NoWorkerError if no worker can ever start, UpgradeError if something that was served would break, and
        BrokerError for a fault of our own at the start.
        """
        if self._listeners.handover is not None:
            await self._take_over(self._listeners.handover.baseline)
            if self._http is not None and not self._stop.is_set():
                self._start_http(self._http)
        self._live_report.start()
        if self._statsd is not None:
            self._statsd.start()
        await self._stop.wait()
        if self._start_fault is not None:
            raise self._start_fault
        if self.supervisor.hopeless is not None:
            await self._say_goodbye()
            raise self.supervisor.hopeless
        await self._drain()

    async def close(self) -> None:
        """End the workers and clean up; works after any part of `open`."""
        self._live_report.close()
        if self._statsd is not None:
            self._statsd.close()
        if self._http is not None:
            self._http.close()
        self.upgrade.close()
        self.log_level.close()
        self._listeners.stop_accepting()
        for front_end in self._front_ends:
            front_end.connections.abort()
        await self.supervisor.stop()
        await self.events.close(self._config.event_grace)
        self._listeners.close()
        self._notifier.close()
        self.bodies.close()
        if self._spans is not None:
            self._spans.shutdown()
        log.info("stopped")

    def _gateway_front_ends(self, end_of_turn: EndOfTurn) -> tuple[GrpcServer, MsgpackRpcServer]:
        config, admission = self._config, gateway_admission(self._config)
        connections = connections_allowed(config.max_connections, config.workers)
        if any(address.startswith(MSGPACK_PREFIX) for address in config.addresses):
            connections //= 2
        grpc = GrpcServer(
            self.router,
            Limits(
                max_message=config.message_limit,
                max_output=config.queue_bytes,
                max_concurrent_streams=config.max_streams,
                max_connections=connections,
                max_age=config.max_connection_age or math.inf,
            ),
            admission=admission,
            end_of_turn=end_of_turn,
            bodies=self.bodies,
            arriving=self.arriving,
            oversize=self.oversize,
        )
        rpc = MsgpackRpcServer(
            dispatch_methods(self.router, lambda: self.supervisor.served),
            RpcLimits(max_message=config.message_limit, max_in_flight=config.max_streams, max_connections=connections),
            admission=admission,
            end_of_turn=end_of_turn,
            arriving=self.arriving,
            oversize=self.oversize,
        )
        return grpc, rpc

    def _http_listener(self) -> "HttpListener | None":
        """Prepare what answers operators, with its routes."""
        if self._listeners.metrics is None:
            return None
        # Here, as most of it is needed only with --metrics.
        from tykpy.broker.observe.http import Routes
        from tykpy.broker.observe.listener import HttpListener, Snapshots
        from tykpy.broker.observe.probes import LiveProbe, ReadyProbe
        from tykpy.broker.observe.prometheus import MetricsPage

        snapshots = Snapshots(self.snapshots, self._loop)
        routes: Routes = {
            "/metrics": MetricsPage(snapshots, self.supervisor.plugin_metrics),
            "/livez": LiveProbe(snapshots),
            "/readyz": ReadyProbe(snapshots),
        }
        if not self._config.admin_page:
            return HttpListener(self._listeners.metrics, routes, None)
        from tykpy.broker.observe.admin_page import AdminPage

        page = AdminPage(snapshots)
        return HttpListener(self._listeners.metrics, routes | page.routes, page.keep_history)

    def _statsd_reporter(self) -> "StatsdReporter | None":
        if self._config.statsd_host is None:
            return None
        from tykpy.broker.observe.statsd import StatsdReporter

        return StatsdReporter(self.snapshots, self._config.statsd_host, self._config.statsd_prefix)

    def _tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks of the broker's event loops."""
        return [*asyncio.all_tasks(self._loop), *(self._http.tasks() if self._http is not None else ())]

    def _start_http(self, http: "HttpListener") -> None:
        self.snapshots.renew()
        http.start()

    def _discovery(self) -> Discovery | None:
        folder, reloads = self._config.bundles, self._config.reload
        if folder is None:
            return None
        return Discovery(self._loop, folder, self.supervisor, self.reloader, self.router, reloads=reloads)

    def _trim_memory(self) -> None:
        trim_memory(self.bodies, [worker.channel for worker in self.supervisor.serving])

    def _take_signals(self) -> None:
        actions: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGTERM: self._stop.set,
            signal.SIGINT: self._stop.set,
            signal.SIGHUP: self.reloader.request,
            signal.SIGUSR2: self._start_upgrade,
            signal.SIGTTIN: lambda: self._scale_by(1),
            signal.SIGTTOU: lambda: self._scale_by(-1),
        }
        for number, action in actions.items():
            self._loop.add_signal_handler(number, action)
        # Not a handler of the loop: when it removes those, it restores the default action, which ends the process.
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self._reopen_log())

    def _reopen_log(self) -> None:
        reopen_log()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.supervisor.reopen_logs)

    def _scale_by(self, workers: int) -> None:
        try:
            self.supervisor.scale(self.supervisor.wanted + workers)
        except ConfigError as error:
            log.warning("not scaled: %s", error)

    def _on_reload(self) -> None:
        self._notifier.reloading()
        self._renewal = self._loop.create_task(self._listeners.renew_certificates())

    def _on_callback_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what a callback raised; before a worker was ever ready, exit: the callback may be part of the start.

        Faults of connections have no handle.
        """
        fault = context.get("exception")
        if fault is None or "handle" not in context:
            loop.default_exception_handler(context)
            return
        report(fault)
        if not self.supervisor.ever_ready and self._start_fault is None:
            self._start_fault = BrokerError(f"the start has failed: {fault!r}; see the traceback")
            self._stop.set()

    def _on_reloaded(self) -> None:
        self._notifier.reloaded()
        if self.reloader.last is not None and self.reloader.last["ok"]:
            self._announced = 0
        self._announce(len(self.router.pool))

    def _start_upgrade(self) -> None:
        self.upgrade.start(self._listeners.all, self.supervisor.served)

    def _on_upgraded(self, pid: int) -> None:
        # The service manager follows the new process, which reports its own state.
        self._notifier.send(f"MAINPID={pid}")
        self._notifier.close()
        self._listeners.handed_over = True
        if self._http is not None:
            self._http.stop()
        self._stop.set()

    async def _take_over(self, baseline: Description) -> None:
        """Wait until all workers are ready and serve what the old program serves; then accept, and tell it to go."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._all_ready, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._stop.is_set():
            return
        broken = self.supervisor.take_over(baseline)
        if broken:
            raise UpgradeError("what the old program serves would break: " + "; ".join(broken))
        await self._listeners.take_over()

    async def _drain(self) -> None:
        # Accept nothing new, tell the peers to go elsewhere, and wait for what runs.
        log.info("draining: %s under way", counted(self.router.under_way, "dispatch", "dispatches"))
        if self._listeners.handed_over:
            # Calls that peers send before they have read that they are to go are still answered.
            self._listeners.stop_accepting()
        else:
            self._listeners.refuse_tcp()
        await asyncio.sleep(ACCEPT_TIME)
        self.snapshots.draining = True
        self._live_report.write()
        for front_end in self._front_ends:
            front_end.drain()
        if not self._listeners.handed_over:
            await self._stop_taking()
        closed = asyncio.gather(self.router.idle(), self.grpc.connections.closed(), self.rpc.connections.closed())
        try:
            await asyncio.wait_for(closed, self._config.grace)
        except TimeoutError:
            left = counted(self.router.under_way, "dispatch", "dispatches")
            log.warning("%s did not finish within --grace %g s", left, self._config.grace)

    async def _say_goodbye(self) -> None:
        # Waiting calls have been answered; a connection that is cut at once would lose the answer.
        for front_end in self._front_ends:
            front_end.drain()
        with contextlib.suppress(TimeoutError):
            closed = asyncio.gather(self.grpc.connections.closed(), self.rpc.connections.closed())
            await asyncio.wait_for(closed, GOODBYE_TIME)

    async def _stop_taking(self) -> None:
        # Calls that a peer had sent before it read that it is to go are still answered.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.grpc.told(), GOODBYE_TIME)
        self.router.draining = True
        self._notifier.send("STOPPING=1")

    def _on_snapshot(self, snapshot: Snapshot, bundles: Sequence[BundleState], unloaded: Mapping[str, str]) -> None:
        self.grpc.health.set(serving_statuses(snapshot, bundles, unloaded, BROKER_SERVICES))
        self._readiness_log.see(snapshot.not_ready)

    def _on_ready_count(self, ready: int) -> None:
        wanted = self.supervisor.wanted
        self._live_report.write()
        state = ("READY=1",) if ready else ()
        self._notifier.send(*state, f"STATUS={ready} of {wanted} workers ready")
        if ready == wanted and not self._all_ready.is_set():
            self._all_ready.set()
            # Objects that exist now stay; a full collection would take milliseconds to go through them. Only once:
            # frozen objects are never collected, and later there are calls and workers that end.
            gc.collect()
            gc.freeze()
        self._announce(ready)

    def _announce(self, ready: int) -> None:
        """Log that all workers are ready: once for a start, a reload, and a return to full strength."""
        if ready != self.supervisor.wanted:
            self._announced = 0
        elif ready != self._announced and not self.reloader.under_way:
            self._announced = ready
            level = logging.INFO if self._config.bundles is not None else logging.WARNING
            # Not "1 worker": scripts wait for these words, which are also those of the status of the service.
            log.log(level, "%d of %d workers ready: %s", ready, ready, self._what_is_served())

    def _what_is_served(self) -> str:
        bundles = self.supervisor.served
        if not bundles:
            folder = self._config.bundles
            return f"no bundle in {folder} yet" if folder is not None else "nothing to serve, there is no --bundles"
        broken = sum(not is_sound(bundle) for bundle in bundles)
        hooks = sum(len(bundle["hooks"]) for bundle in bundles)
        text = f"{counted(len(bundles), 'bundle')}, {counted(hooks, 'hook')}"
        return f"{text}; not loaded completely: {broken} (tykpy hooks)" if broken else text


def _router_options(config: BrokerConfig) -> RouterOptions:
    return RouterOptions(
        timeout_ns=int(config.timeout * 1e9),
        queue_size=config.queue_size,
        queue_wait_ns=int(config.queue_wait * 1e9),
        breaker_cooldown=config.breaker_cooldown,
        queue_bytes=config.queue_bytes,
    )


def _log_ended(router: Router, rule: AccessRule | None) -> None:
    """Log dispatches that have ended by a rule; None: log none."""
    if rule is not None:
        (router.failure_observers if rule.errors_only else router.observers).append(AccessLog(rule.slow))


def _open_spans() -> "DispatchSpans":
    from tykpy.broker.tracing.spans import DispatchSpans  # needs the extra tykpy[otel]

    try:
        spans = DispatchSpans.open()
    except TracingError as error:
        raise ConfigError(str(error)) from error
    log.info("traces go to %s, sampled by %s", shown_endpoint(os.environ), shown_sampler(os.environ))
    return spans


def _open_bodies(config: BrokerConfig) -> BodyStore:
    try:
        return BodyStore(channel_options(config.most_threads, config.message_limit).store_capacity)
    except SegmentError as error:
        raise BrokerError(f"no room for big requests: {error}") from error
