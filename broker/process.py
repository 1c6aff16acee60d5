"""One worker process: started by exec with inherited descriptors, watched through a pidfd, ended by signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

UNWANTED_ENVIRONMENT = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "TYKPY_REDIS")
"""What the broker was started with and a worker has no business with: sockets of its own, and secrets."""


class LifePipe:
    """A pipe whose write end only the broker has: its end of file is the broker's death.

    Workers have the kernel send them SIGKILL for it, so even one that hangs inside C code does not outlive the broker.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def close(self) -> None:
        """Close both ends; every worker left dies of it."""
        os.close(self.reader)
        os.close(self._writer)


class WorkerProcess:
    """A started worker. Close it after `reap`.

    Raises OSError from the constructor where the process cannot be started (descriptors, memory, process limit).
    """

    def __init__(self, arguments: Sequence[str], descriptors: Sequence[int], environment: Mapping[str, str]) -> None:
        # -P keeps the working directory out of the import path: plugin code never shadows ours, nor ours a plugin's.
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=descriptors,
            env={name: value for name, value in environment.items() if name not in UNWANTED_ENVIRONMENT},
        )
        self.pid = self._popen.pid
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._popen.kill()
            self._popen.wait()
            raise

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended already is left alone."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        """End it now; the pidfd says when it is gone."""
        self.signal(signal.SIGKILL)

    def dump(self) -> None:
        """Have the worker write the stacks of its threads to the log, even if it holds its interpreter's lock."""
        self.signal(signal.SIGUSR2)

    def reap(self) -> str:
        """Wait for the end, which the pidfd has announced, and say how it came."""
        code = self._popen.wait()
        os.close(self.pidfd)
        return describe_exit(code)


def describe_exit(code: int) -> str:
    """Say a `Popen.returncode` in words: `ended by SIGKILL`, `exited with code 3`."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"
