"""How long a pool takes to be ready, and what an idle worker costs in memory."""

import statistics
import time
from pathlib import Path
from typing import Final

from benchmarks.bars.bar import Bar, BarOutcome
from benchmarks.driving import ask, bare_interpreter_mib
from benchmarks.rounds import Pace
from tykpy.bench.measure import family, memory_mib
from tykpy.bench.scenarios import BUILT_IN
from tykpy.bench.serving import OwnBroker

WORKERS: Final = 8

START_UP: Final = Bar("start-up", "from starting a broker until 8 workers are ready, no bundles", 1.0, False, "s")
IDLE_MEMORY: Final = Bar("memory", "PSS of an idle worker above that of a bare interpreter", 15.0, False, "MiB")


def measure_start_up(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure from before the process is created until the broker has notified its service manager."""
    seconds = tuple(_start() for _ in range(pace.rounds))
    return [BarOutcome(START_UP, seconds, f"{statistics.median(seconds) / WORKERS * 1000:.0f} ms per worker")]


def _start() -> float:
    begin = time.perf_counter()
    with OwnBroker([], WORKERS, 1, 1):
        return time.perf_counter() - begin


def measure_memory(pace: Pace, folder: Path) -> list[BarOutcome]:
    """Measure with a bundle loaded and one call made, beside an interpreter that has imported nothing.

    The workers' memory includes the zygote's.
    """
    scenario = BUILT_IN["header"]
    extra, bare, broker = [], [], []
    for _ in range(pace.rounds):
        with OwnBroker(scenario.files, WORKERS, 1, 1) as server:
            ask(server.address, scenario.build(None), scenario.is_right)
            front, *others = memory_mib(family(server.pids()[0]))
            bare.append(bare_interpreter_mib())
        broker.append(front)
        extra.append(sum(others) / WORKERS - bare[-1])
    detail = (
        f"{statistics.median(extra) + statistics.median(bare):.1f} MiB of {WORKERS} workers each, bare interpreter "
        f"{statistics.median(bare):.1f} MiB, broker {statistics.median(broker):.1f} MiB"
    )
    return [BarOutcome(IDLE_MEMORY, tuple(extra), detail)]
