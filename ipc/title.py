"""What a process of ours is called by `ps`, `top` and /proc: its name, and in place of its command line.

The kernel shows whatever is in the memory where it put the arguments (proc_pid_cmdline(5)), so the title is written
there. What Python made of the arguments, `sys.argv`, is a copy and stays.
"""

import contextlib
from pathlib import Path
from typing import Final

BROKER: Final = "tykpy: broker"
ZYGOTE: Final = "tykpy: zygote"
_MAX_NAME: Final = 15
"""Bytes of a process's name (TASK_COMM_LEN without its zero)."""
_ARG_START: Final = 45
"""Place of `arg_start` among the fields of /proc/PID/stat that follow the name; `arg_end` is the next."""


def worker_title(slot: int) -> str:
    """Return the title of the worker in a slot."""
    return f"tykpy: worker {slot}"


def set_title(title: str) -> None:
    """Give this process a title. Where /proc does not allow it, nothing changes: it is for people only.

    Call it before the process is made undumpable: its /proc files belong to root then.
    """
    name = title if len(title) <= _MAX_NAME else title.replace(" ", "")
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_bytes(name.encode())
        start, end = _arguments()
        room = end - start
        # A last byte that is not zero says that this is a title (fs/proc/base.c): it is shown up to its first zero.
        text = title.encode()[: room - 2].ljust(room - 1, b"\0") + b"\1"
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(text)


def _arguments() -> tuple[int, int]:
    """Return the address of this process's arguments, and that of their end."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[_ARG_START]), int(fields[_ARG_START + 1])
