"""One worker process: forked by a zygote or started by exec, watched through a pidfd, ended by signals."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self

from tykpy.broker.host.exits import ExitCode
from tykpy.ipc.channel.stacks import STACKS_SIGNAL
from tykpy.ipc.exits import WorkerExit

UNWANTED_ENVIRONMENT: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")
"""Variables by which a service manager talks to the broker alone."""
HANDLED_SIGNALS: Final = frozenset(
    {
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU,
        STACKS_SIGNAL,
    }
)  # fmt: skip
"""Signals that our programs handle, so that they may be sent to all of them at once."""
OWN_PREFIX: Final = "TYKPY_"
"""Start of the broker's own options, secrets among them; a worker gets what it needs on its control socket."""
OWN_FAULTS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGXCPU}
)
"""Signals that a process gets for its own doing; others were sent by somebody."""
STOPPED: Final = frozenset({b"T", b"t"})
"""States of a process that a signal or a debugger has stopped (proc_pid_stat(5))."""
CPU_ENDING: Final = f"was ended by {signal.SIGXCPU.name}"
_VMSTAT: Final = Path("/proc/vmstat")
_OOM_KILLS: Final = re.compile(rb"^oom_kill ([0-9]+)$", re.MULTILINE)


class LifePipe:
    """A pipe whose write end only the broker has: end of file means that the broker has died.

    The kernel sends workers SIGKILL for it, so even one that hangs inside C code does not outlive the broker.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def close(self) -> None:
        """Close both ends, which kills every worker that is left; works repeatedly."""
        if self.reader >= 0:
            os.close(self.reader)
            os.close(self._writer)
        self.reader = self._writer = -1


class Ending(NamedTuple):
    """How a process ended."""

    words: str
    """How it ended, as it follows `worker 1 (process 7)`."""
    by_itself: bool | None
    """Whether it ended because of what it did, not because of a signal or an order to leave; None: not known."""
    out_of_memory: bool = False
    """Whether the kernel killed it for lack of memory."""


class WorkerProcess:
    """A started worker process.

    Raises OSError from the constructor if it cannot be watched (no descriptors); the process has ended then.
    """

    def __init__(self, pid: int, wait: Callable[[], int | None]) -> None:
        """`wait`: waits until it ends and returns the exit code (negative for a signal), or None if unknown."""
        self._oom_kills = (oom_kills(),) * 2
        """The last two counts of out-of-memory kills on the machine."""
        self._wait = wait
        self.pid = pid
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            wait()
            raise

    @classmethod
    def execute(cls, arguments: Sequence[str], descriptors: Sequence[int]) -> Self:
        """Start a worker by exec. Raises OSError if that is impossible (descriptors, memory, process limit)."""
        process = execute(arguments, descriptors)
        return cls(process.pid, process.wait)

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        """Kill it; the pidfd says when it is gone."""
        self.signal(signal.SIGKILL)

    def dump(self) -> None:
        """Have the worker write the stacks of its threads to the log, even if it holds the interpreter lock."""
        self.signal(signal.SIGUSR2)

    def ask_for_stacks(self) -> None:
        """Have the worker write the stacks of its threads into its channel, even if it holds the interpreter lock."""
        self.signal(STACKS_SIGNAL)

    def note_oom_kills(self, count: int) -> None:
        """Remember how many processes the machine has killed for lack of memory: only later kills explain an end."""
        self._oom_kills = self._oom_kills[1], count

    @property
    def is_stopped(self) -> bool:
        """Whether a signal (SIGSTOP) or a debugger has stopped it."""
        try:
            return stat_of(self.pid)[1][0] in STOPPED
        except OSError:
            return False

    def ending(self) -> Ending:
        """Return how the process ended, without reaping it if the kernel shows its exit code; `release` it later.

        Its parent may be another process, whose answer takes a while; callers are told first.
        """
        code = shown_exit_code(self.pid)
        return self.reap() if code is None else self._describe(code)

    def release(self) -> None:
        """Reap it, if that has not been done."""
        if self.pidfd >= 0:
            self.reap()

    def reap(self) -> Ending:
        """Reap the process, whose end the pidfd has announced, and return how it ended."""
        code = self._wait()
        os.close(self.pidfd)
        self.pidfd = -1
        return self._describe(code)

    def _describe(self, code: int | None) -> Ending:
        if code is None:
            return Ending("has ended, and how is not known", by_itself=False)
        return describe_end(code, out_of_memory=code == -signal.SIGKILL and oom_kills() > self._oom_kills[0])


class OwnChild(subprocess.Popen[bytes]):
    """A child that only its starter may wait for (see orphans.py)."""

    running: ClassVar[set[int]] = set()
    """Process numbers of children that were not waited for yet."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.running.add(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code. Raises subprocess.TimeoutExpired."""
        code = super().wait(timeout)
        self.running.discard(self.pid)
        return code


def execute(arguments: Sequence[str], descriptors: Sequence[int]) -> OwnChild:
    """Start the workers' program with these descriptors. Raises OSError."""
    # -P keeps the working directory out of the import path: plugin code never shadows ours, nor ours a plugin's.
    with signals_blocked():
        return OwnChild(
            [sys.executable, "-P", "-m", "tykpy.workers", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=descriptors,
            env=environment_for_workers(os.environ),
        )


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that would end a program before it has handlers; the started program unblocks them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def environment_for_workers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the broker's environment without variables that plugin code must not see."""
    return {
        name: value
        for name, value in environment.items()
        if name not in UNWANTED_ENVIRONMENT and not name.startswith(OWN_PREFIX)
    }


def describe_end(
    code: int, codes: type[WorkerExit] | type[ExitCode] = WorkerExit, *, out_of_memory: bool = False
) -> Ending:
    """Put a `Popen.returncode` into words: `was ended by SIGKILL`, `exited with code 83 (cannot start)`.

    `codes`: the exit codes of the program that has ended.
    """
    if code >= 0:
        return _describe_exit(code, codes)
    try:
        number = signal.Signals(-code)
    except ValueError:
        return Ending(f"was ended by signal {-code}", by_itself=False)
    why = " (out of memory: the machine or its container)" if out_of_memory else ""
    if number == signal.SIGXCPU:
        why = " (its CPU time was used up: --limit-cpu)"
    return Ending(f"was ended by {number.name}{why}", out_of_memory or number in OWN_FAULTS, out_of_memory)


def _describe_exit(code: int, codes: type[WorkerExit] | type[ExitCode]) -> Ending:
    try:
        words = codes(code).words
    except ValueError:
        words = ""
    return Ending(f"exited with code {code}{words and f' ({words})'}", by_itself=True)


def shown_exit_code(pid: int) -> int | None:
    """Return the exit code of a process that was not reaped yet, negative for a signal.

    None if the kernel does not show it: without permission it shows 0 (proc_pid_stat(5)).
    """
    try:
        _, stat = stat_of(pid)
    except OSError:
        return None
    state, status = stat[0], stat[-1]
    if state != b"Z" or status == b"0":
        return None
    return os.waitstatus_to_exitcode(int(status))


def stat_of(pid: int) -> tuple[str, list[bytes]]:
    """Return the name in proc_pid_stat(5), and the fields after it, beginning with the state. Raises OSError."""
    text = Path(f"/proc/{pid}/stat").read_bytes()
    end = text.rindex(b")")
    return os.fsdecode(text[text.index(b"(") + 1 : end]), text[end + 1 :].split()


def oom_kills() -> int:
    """Return how many processes this machine's kernel has killed for lack of memory; 0 if it does not say."""
    try:
        text = _VMSTAT.read_bytes()
    except OSError:
        return 0
    # Searched, not split: callers of a killed worker's hooks wait for this.
    count = _OOM_KILLS.search(text)
    return int(count[1]) if count else 0
