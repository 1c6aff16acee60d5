"""Processes that end with the one that started them, also when that one is killed and can clean up nothing."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the starting thread ends; leaves at once where `parent` has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        sys.exit(0)


def main() -> None:
    """`python -m tykpy.bench.bound PARENT_PID COMMAND...`: the `tykpy` command line, bound to that process."""
    from tykpy.cli import main as command_line

    end_with_parent(int(sys.argv[1]))
    command_line(sys.argv[2:], prog_name="tykpy")


if __name__ == "__main__":
    main()
