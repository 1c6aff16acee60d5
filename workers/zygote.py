"""The zygote: has imported what every worker needs, and forks one whenever the broker orders it.

It runs no thread and loads no bundle: what a worker gets from it is what it would have after its own imports, sooner
and shared. It is the workers' parent, so how they end is asked of it. No worker can look into it: whoever wrote into
its memory would have all workers that come.
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

    `life` stays open, for workers.
    """
    # A broker that was started with SIGCHLD ignored would have the kernel forget how workers ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    set_title(ZYGOTE)
    prctl(Option.DUMPABLE, 0)
    watch = end_with_broker(life)
    # Nothing of it goes away again; collections in workers would only write into pages that all share.
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
            # What has been installed since is found as well; `importlib.invalidate_caches` would import 30 modules.
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
