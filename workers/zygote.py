"""The zygote: a process that has imported what every worker needs, and forks a worker whenever the broker orders one.

It runs no threads and loads no bundles: a worker inherits what its own imports would have given it, but sooner and in
shared memory. It is the workers' parent, so it reports how they ended. No worker can access its memory: a worker that
could write there would control every later worker.
"""

import gc
import os
import signal
import sys

from tykpy.ipc.orders import Fork, OrderReceiver, Reap, close_all
from tykpy.ipc.prctl import Option, prctl
from tykpy.ipc.title import ZYGOTE, set_title
from tykpy.workers.process.lifeline import end_with_broker


def fork_loop(descriptor: int, life: int) -> str | None:
    """Carry out orders from this socket; returns the channel argument in each worker, None once the broker is gone.

    `life` stays open for the workers.
    """
    # If the broker was started with SIGCHLD ignored, the kernel would not keep the workers' exit codes.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    set_title(ZYGOTE)
    prctl(Option.DUMPABLE, 0)
    watch = end_with_broker(life)
    # These objects are never freed; collecting them in workers would only write to shared pages.
    gc.collect()
    gc.freeze()
    orders = OrderReceiver(descriptor)
    orders.say_ready()
    while (order := orders.next()) is not None:
        if isinstance(order, Reap):
            _reap(order, orders)
        elif _fork(order, orders):
            orders.close()
            os.close(watch)
            prctl(Option.DUMPABLE, 1)
            # Find packages that were installed since, too; `importlib.invalidate_caches` would import 30 modules.
            sys.path_importer_cache.clear()
            return order.channel
    return None


def _reap(order: Reap, orders: OrderReceiver) -> None:
    try:
        _, status = os.waitpid(order.pid, 0)
    except OSError as error:
        orders.refuse(error.errno or 0)
    else:
        orders.reply(os.waitstatus_to_exitcode(status))


def _fork(order: Fork, orders: OrderReceiver) -> bool:
    """Return True in the worker."""
    try:
        pid = os.fork()
    except OSError as error:
        close_all(order.descriptors)
        orders.refuse(error.errno or 0)
        return False
    if pid == 0:
        return True
    close_all(order.descriptors)
    orders.reply(pid)
    return False
