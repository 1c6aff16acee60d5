"""What the servers of a comparison cost: CPU per request and memory, told apart by process."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tykpy.bench.measure import MIB, PROC, pss_bytes

NS_PER_US = 1000


class Cost(NamedTuple):
    """What the first process of a server and its children used, in one unit."""

    front: float
    children: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.front + self.children


def cpu_per_request(before: dict[int, int], after: dict[int, int], requests: int) -> Cost:
    """CPU microseconds per request between two readings of the same family; its first process is the front."""
    used = [after[pid] - before[pid] for pid in before]
    return Cost(used[0] / requests / NS_PER_US, sum(used[1:]) / requests / NS_PER_US)


def memory(pids: list[int], proc: Path = PROC) -> Cost:
    """PSS in MiB: each page shared by n processes counts 1/n in each."""
    used = [pss_bytes(pid, proc) / MIB for pid in pids]
    return Cost(used[0], sum(used[1:]))


def bare_interpreter_mib() -> float:
    """PSS of this Python with nothing imported, while everything else runs."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        mib = pss_bytes(bare.pid) / MIB
        bare.communicate(b"\n")
    return mib
