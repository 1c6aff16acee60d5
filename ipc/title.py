"""Set the name and command line that `ps`, `top` and /proc show for this process.

The kernel shows whatever is in the memory where it put the arguments (proc_pid_cmdline(5)), so the title is written
there. `sys.argv` is a copy and does not change.
"""

import contextlib
from pathlib import Path
from typing import Final

BROKER: Final = "tykpy: broker"
DEV: Final = "tykpy: dev"
ZYGOTE: Final = "tykpy: zygote"
_MAX_NAME: Final = 15
"""Bytes of a process's name (TASK_COMM_LEN without its zero)."""
_ARG_START: Final = 45
"""Place of `arg_start` among the fields of /proc/PID/stat that follow the name; `arg_end` is the next."""


def worker_title(slot: int) -> str:
    """Return the title of the worker in a slot."""
    return f"tykpy: worker {slot}"


def set_title(title: str) -> None:
    """Give this process a title. Do nothing if /proc does not allow it: titles are only for people.

    Call it before the process is made undumpable: its /proc files belong to root then.
    """
    name = title if len(title) <= _MAX_NAME else title.replace(" ", "")
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_bytes(name.encode())
        start, end = _arguments()
        room = end - start
        # A non-zero last byte marks this as a title (fs/proc/base.c), which is shown up to its first zero.
        text = title.encode()[: room - 2].ljust(room - 1, b"\0") + b"\1"
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(text)


def _arguments() -> tuple[int, int]:
    """Return the start and end address of this process's arguments."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[_ARG_START]), int(fields[_ARG_START + 1])
