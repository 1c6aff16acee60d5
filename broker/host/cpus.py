"""Count the CPUs this process may use: its affinity, and the quota of its control groups, which Python does not see.

A quota limits time, not CPUs: 1.5 CPUs are 150 ms in 100 ms. It is rounded up: rounded down, a third of it could never
be used, while one worker too many only has to share.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path("/")


class Cpus(NamedTuple):
    """The number of CPUs that may be used, at least one."""

    number: int
    limit: str
    """What sets this number, in words."""


def usable_cpus(root: Path = ROOT) -> Cpus:
    """Return how many CPUs this process may use. `root`: the folder of /proc and /sys."""
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    affinity = Cpus(allowed, "CPU affinity" if allowed < there else "CPUs of the machine")
    # If several are equally low, the first is named.
    return min([affinity, *_quotas(root)], key=lambda cpus: cpus.number)


def _quotas(root: Path) -> Iterator[Cpus]:
    """Yield the quotas of our control groups and of their parents; a machine may have both versions of them."""
    mounts = [mount for line in _lines(root / "proc/self/mountinfo") if (mount := _Mount.parse(line, root)) is not None]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        for mount in mounts:
            if mount.is_of(controllers):
                for folder in mount.folders(group):
                    yield from _quota(folder)


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups."""

    point: Path
    top: str
    """The group at the mount point; in a container it is often the container's own."""
    kind: str
    options: str

    @classmethod
    def parse(cls, line: str, root: Path) -> "_Mount | None":
        """Parse a line of proc_pid_mountinfo(5); return None if it is not about control groups."""
        here, _, there = line.partition(" - ")
        kind, _, options = there.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            return None
        _, _, _, top, point, *_ = here.split(" ")
        return cls(root / point.lstrip("/"), top.rstrip("/"), kind, options)

    def is_of(self, controllers: str) -> bool:
        """Say whether this is the hierarchy of a line of /proc/self/cgroup, and may limit CPUs."""
        if not controllers:
            return self.kind == "cgroup2"
        return self.kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in self.options.split(",")

    def folders(self, group: str) -> Iterator[Path]:
        """Yield the folders from the mount point to the group, if it lies below: outer groups are not visible."""
        yield self.point
        inner = group.removeprefix(self.top)
        if not group.startswith(f"{self.top}/") or ".." in inner.split("/"):
            return
        folder = self.point
        for name in filter(None, inner.split("/")):
            folder /= name
            yield folder


def _quota(folder: Path) -> Iterator[Cpus]:
    """Yield the quota of one group, if it has one: `cpu.max` of version 2, `cpu.cfs_...` of version 1, in us."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        numbers = " ".join(line for file in files for line in _lines(folder / file)).split()
        if len(numbers) == 2 and all(number.isdecimal() and int(number) for number in numbers):
            cpus = int(numbers[0]) / int(numbers[1])
            yield Cpus(math.ceil(cpus), f"quota of {cpus:g} CPUs in {folder / files[0]}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="backslashreplace").splitlines()
    except OSError:
        return []
