"""End a process together with its broker, whatever it is doing."""

import fcntl
import os
import signal


def end_with_broker(life: int) -> int:
    """Have the kernel kill this process when the broker, the only writer of this pipe, is gone.

    The pipe is opened again, because fcntl changes the open file, which the processes share. Returns the new
    descriptor.
    """
    descriptor = os.open(f"/proc/self/fd/{life}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    return descriptor
