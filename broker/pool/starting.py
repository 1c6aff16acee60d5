"""Start workers: channel, process, configuration."""

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tykpy.broker.catalog.served import SavedFolder
from tykpy.broker.config import AUTO, BrokerConfig
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.faults import report
from tykpy.broker.host.descriptors import DescriptorReserve
from tykpy.broker.pool.process import WorkerProcess
from tykpy.broker.pool.worker import Worker, WorkerOwner
from tykpy.broker.pool.zygote import ZygoteKeeper
from tykpy.broker.router.link import ASYNC_LIMIT, most_blocking
from tykpy.ipc.bodies.store import BodyStore
from tykpy.ipc.channel.broker_end import BrokerChannel
from tykpy.ipc.channel.messages import ChannelOptions
from tykpy.ipc.errors import IpcError
from tykpy.telemetry.log import level_name

log = logging.getLogger("tykpy.supervisor")

RING_CAPACITY: Final = 2 * 1024 * 1024
"""Bytes per ring. Pages that no record has touched cost nothing."""
STARTING_FILES: Final = 26
"""Descriptors that starting a worker takes (18), and some for whatever else happens at that moment."""
LASTING_FILES: Final = 12
"""Descriptors that a worker keeps (10): those of one that ended are reserved until it is replaced."""
FIRST: Final = 1
"""The first generation checks whether Redis can be reached; the others find out when they use it."""
RECORD_ROUNDING: Final = 64
"""The largest record is a multiple of this many bytes."""


def channel_options(threads: int, max_message: int, *, learns: bool = False) -> ChannelOptions:
    """Return the sizes of a channel with room for all that a link may have in flight (see `ChannelOptions.credits`)."""
    most = most_blocking(threads, learns=learns) + ASYNC_LIMIT
    max_record = RING_CAPACITY // (most + 2) // RECORD_ROUNDING * RECORD_ROUNDING
    return ChannelOptions(capacity=RING_CAPACITY, max_record=max_record, max_message=max_message)


class WorkerStarter:
    """Starts workers; closing it ends them all."""

    def __init__(
        self,
        config: BrokerConfig,
        zygotes: ZygoteKeeper,
        bodies: BodyStore | None = None,
        loads: Callable[[], Iterable[tuple[str, dict[str, Any]]]] = tuple,
        names: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`bodies`: the store of big requests. `loads`: `BundleLoads.messages`. `names`: `BundleNames.texts`."""
        self._config = config
        self._bodies = bodies
        self._loads = loads
        self._names = names
        self._options = channel_options(config.most_threads, config.message_limit, learns=config.threads == AUTO)
        self._epoch = secrets.randbits(63)
        self._generation = 0
        self._zygotes = zygotes
        self.reserve = DescriptorReserve()
        self.saved = SavedFolder(config.runtime_dir)

    def start(self, slot: int, owner: WorkerOwner, *, pinned: bool = True) -> Worker:
        """Start a worker; it says on its control socket when it is ready.

        `pinned`: it loads the versions of bundles that are served now, not what is in the folder.

        Raises WorkerStartError if the machine has no memory, descriptors or processes left, and for every other error:
        the caller tries again or gives up, but never goes on without the worker.
        """
        self._generation += 1
        try:
            with self.reserve.released():
                return self._open(slot, self._generation, owner, pinned)
        except (OSError, IpcError) as error:
            raise WorkerStartError(f"no process can be started: {error}") from error
        except Exception as fault:
            # Whatever the error is, the caller tries again later.
            report(fault)
            raise WorkerStartError(f"no process can be started: {fault!r}") from fault

    def keep_room(self, missing: int) -> None:
        """Reserve descriptors for so many workers that are still to be started, and for starting one."""
        self.reserve.hold(STARTING_FILES + LASTING_FILES * missing)

    def close(self) -> None:
        """End every worker that is left."""
        self.reserve.close()
        self._zygotes.close()
        self.saved.close()

    def _open(self, slot: int, generation: int, owner: WorkerOwner, pinned: bool) -> Worker:
        channel = BrokerChannel.create(slot, generation, self._epoch, self._options, self._bodies)
        try:
            # Before there is a process: messages wait in the socket, and after an error here there is nothing to end.
            for name, told in self._loads():
                channel.control.send(name, told)
            channel.control.send("configure", self._worker_config(pinned))
            process = self._process(channel)
        except BaseException:
            channel.close()
            raise
        finally:
            channel.close_worker_ends()
        return Worker(slot, generation, channel, process, owner)

    def _process(self, channel: BrokerChannel) -> WorkerProcess:
        argument, descriptors, life = channel.worker_argument(), channel.worker_fds, self._zygotes.life.reader
        return self._zygotes.fork(argument, descriptors) or WorkerProcess.execute(
            [argument, str(life)], [*descriptors, life]
        )

    def _worker_config(self, pinned: bool) -> dict[str, Any]:
        # Over the socket, not in argv: the Redis URL may hold a password. Paths are bytes: not all of them are text.
        config = self._config
        return {
            "bundles": os.fsencode(config.bundles) if config.bundles else None,
            "public_key": os.fsencode(config.public_key) if config.public_key else None,
            "runtime_dir": os.fsencode(config.runtime_dir),
            "saved": os.fsencode(self.saved.path) if self.saved.path else None,
            "pinned": pinned,
            "redis": config.redis,
            "check_storage": self._generation == FIRST and config.redis is not None,
            "threads": config.most_threads,
            "least_threads": 1 if config.threads == AUTO else config.threads,
            "limits": {"memory": config.limit_memory, "cpu": config.limit_cpu, "files": config.limit_files},
            "names": self._names(),
            "tracing": config.tracing == "on",
            "metrics": config.metrics is not None,
            "log_level": level_name(),
            "log_format": config.log_format,
            "slow_hook": config.slow_hook,
            "log_file": os.fsencode(config.log_file) if config.log_file else None,
        }
