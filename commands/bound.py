"""Child processes that end with the process that started them, even if it is killed and cannot clean up."""

import importlib
import os
import signal
import subprocess
import sys
from typing import Any

from tykpy.ipc.prctl import Option, prctl


def spawn(module: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start Python with `main()` of a module, which gets SIGTERM when the calling thread ends."""
    bound = [sys.executable, "-P", "-m", "tykpy.commands.bound", str(os.getpid())]
    return subprocess.Popen([*bound, module, *arguments], **options)


def main() -> None:
    """Ask the kernel for SIGTERM on the parent's death, then run `main()` of the module."""
    _, parent, module, *arguments = sys.argv
    prctl(Option.PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        return  # the parent died before the call above
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
