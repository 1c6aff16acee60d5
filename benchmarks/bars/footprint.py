"""How long a pool takes to be ready, and what an idle worker costs in memory."""

import statistics
import time
from pathlib import Path
from typing import Final

from benchmarks.bars.bar import Bar, Outcome
from benchmarks.bars.driving import ask
from benchmarks.bars.rounds import Pace
from benchmarks.measure import bare_interpreter_mib, memory
from tykpy.bench.measure import family
from tykpy.bench.scenarios import BUILT_IN
from tykpy.bench.serving import OwnBroker

WORKERS: Final = 8

START_UP: Final = Bar("start-up", "from starting a broker until 8 workers are ready, no bundles", 1.0, False, "s")
IDLE_MEMORY: Final = Bar("memory", "PSS of an idle worker above that of a bare interpreter", 15.0, False, "MiB")


def measure_start_up(pace: Pace, folder: Path) -> list[Outcome]:
    """From before the process is made until the broker has told its service manager."""
    seconds = tuple(_start() for _ in range(pace.rounds))
    return [Outcome(START_UP, seconds, f"{statistics.median(seconds) / WORKERS * 1000:.0f} ms per worker")]


def _start() -> float:
    begin = time.perf_counter()
    with OwnBroker([], WORKERS, 1, 1):
        return time.perf_counter() - begin


def measure_memory(pace: Pace, folder: Path) -> list[Outcome]:
    """With a bundle loaded and one call made, beside an interpreter that has imported nothing.

    Workers are what they are and their share of the process that has forked them.
    """
    scenario = BUILT_IN["header"]
    extra, bare, broker = [], [], []
    for _ in range(pace.rounds):
        with OwnBroker(scenario.files, WORKERS, 1, 1) as server:
            ask(server.address, scenario.build(None), scenario.is_right)
            used = memory(family(server.pids()[0]))
            bare.append(bare_interpreter_mib())
        broker.append(used.front)
        extra.append(used.children / WORKERS - bare[-1])
    detail = (
        f"{statistics.median(extra) + statistics.median(bare):.1f} MiB of {WORKERS} workers each, bare interpreter "
        f"{statistics.median(bare):.1f} MiB, broker {statistics.median(broker):.1f} MiB"
    )
    return [Outcome(IDLE_MEMORY, tuple(extra), detail)]
