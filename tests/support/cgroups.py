"""Memory cgroups, for tests that let the kernel run out of memory for one process only."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import wait_until

_V1: Final = Path("/sys/fs/cgroup/memory")
_V2: Final = Path("/sys/fs/cgroup")


class MemoryCgroup:
    """A cgroup whose processes are killed when they need more memory than its limit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, pid: int) -> None:
        """Move a process; what it has already does not count."""
        (self.path / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[MemoryCgroup]:
    """Yield a new cgroup with a limit in bytes, and no swap; skip the test where that is impossible."""
    parent, settings = _controller(limit)
    path = parent / f"tykpy-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        for name, value in settings.items():
            # Without swap the kernel may have no such file.
            if (path / name).exists():
                (path / name).write_text(str(value))
        yield MemoryCgroup(path)
    finally:
        wait_until(lambda: not (path / "cgroup.procs").read_text(), lambda: f"processes left in {path}")
        path.rmdir()


def _controller(limit: int) -> tuple[Path, dict[str, int]]:
    """Return where memory cgroups are made, and the settings of one."""
    if (_V1 / "memory.limit_in_bytes").exists():
        return _V1, {"memory.limit_in_bytes": limit, "memory.swappiness": 0}
    with contextlib.suppress(OSError):
        if "memory" in (_V2 / "cgroup.subtree_control").read_text().split():
            return _V2, {"memory.max": limit, "memory.swap.max": 0}
    pytest.skip("the memory controller of cgroups is not available here")
