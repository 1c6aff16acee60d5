"""The benchmark's results: medians over rounds, and the tables made of them."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final

from benchmarks.contenders import EMBEDDED, SYNC
from benchmarks.h2load import Load
from benchmarks.measure import Cost
from benchmarks.output import markdown_table
from benchmarks.servers.embedded import EmbeddedResult

PACKAGES: Final = ("grpcio", "protobuf", "msgpack", "uvloop", "hpack")
COLUMNS: Final = (
    "server", "streams", "requests/s", "min..max", "p50 us", "p99 us",
    "front CPU us", "workers CPU us", "CPU us", "load CPU us", "req/s : sync", "p50 : sync",
)  # fmt: skip
LOAD_AVERAGE: Final = "load average"
QUIET_LOAD_AVERAGE: Final = 0.5
"""Above this, others use the CPUs that the servers and the load generator share."""
MEMORY_COLUMNS: Final = ("server", "processes", "idle front MiB", "idle per worker MiB", "after load MiB")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the load generator against one server."""

    load: Load
    cpu: Cost
    """CPU us per request."""


@dataclass(frozen=True, slots=True)
class Row:
    """One server at one number of streams: medians over all rounds."""

    server: str
    streams: int
    rate: float
    rate_min: float
    rate_max: float
    p50_us: float
    p99_us: float
    front_us: float
    workers_us: float
    total_us: float
    load_us: float


@dataclass(frozen=True, slots=True)
class Memory:
    """PSS of one server in MiB."""

    server: str
    processes: int
    idle_front: float
    idle_children: float
    after_load: float


def median_row(server: str, streams: int, samples: Sequence[Sample]) -> Row:
    """The median of each figure."""
    rates = [sample.load.rate for sample in samples]
    return Row(
        server=server,
        streams=streams,
        rate=statistics.median(rates),
        rate_min=min(rates),
        rate_max=max(rates),
        p50_us=statistics.median(sample.load.p50_us for sample in samples),
        p99_us=statistics.median(sample.load.p99_us for sample in samples),
        front_us=statistics.median(sample.cpu.front for sample in samples),
        workers_us=statistics.median(sample.cpu.children for sample in samples),
        total_us=statistics.median(sample.cpu.total for sample in samples),
        load_us=statistics.median(sample.load.cpu_us for sample in samples),
    )


@dataclass(frozen=True, slots=True)
class EmbeddedRow:
    """The embedded driver's model, which is no server: medians over all rounds."""

    rate: float
    rate_min: float
    rate_max: float
    cpu_us: float


def embedded_row(samples: Sequence[EmbeddedResult]) -> EmbeddedRow:
    """The median of each figure."""
    rates = [sample.rate for sample in samples]
    cpu_us = statistics.median(sample.cpu_us for sample in samples)
    return EmbeddedRow(statistics.median(rates), min(rates), max(rates), cpu_us)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run found out."""

    command: str
    machine: dict[str, str]
    rows: tuple[Row, ...]
    memory: tuple[Memory, ...]
    bare_interpreter_mib: float
    embedded: EmbeddedRow

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """Column names and cells of each table."""
        return [
            (COLUMNS, [*(self._cells(row) for row in self.rows), _embedded_cells(self.embedded)]),
            (MEMORY_COLUMNS, [*map(_memory_cells, self.memory)]),
        ]

    def notes(self) -> list[str]:
        """What belongs under the tables."""
        return [
            *doubts(self.machine),
            f"A bare interpreter has {self.bare_interpreter_mib:.1f} MiB (PSS) beside them.",
            f"{EMBEDDED}: today's embedded driver, one process and one lock, without a server or the gateway's way "
            "into the interpreter: the most that it can do, at any number of streams and on any number of cores.",
            ", ".join(f"{key} {value}" for key, value in self.machine.items()),
            f"Made by: {self.command}",
        ]

    def _cells(self, row: Row) -> tuple[str, ...]:
        return (
            row.server,
            str(row.streams),
            f"{row.rate:,.0f}",
            f"{row.rate_min:,.0f}..{row.rate_max:,.0f}",
            f"{row.p50_us:,.0f}",
            f"{row.p99_us:,.0f}",
            f"{row.front_us:.1f}",
            f"{row.workers_us:.1f}",
            f"{row.total_us:.1f}",
            f"{row.load_us:.1f}",
            *self._against_sync(row),
        )

    def _against_sync(self, row: Row) -> tuple[str, str]:
        for sync in self.rows:
            if sync.server == SYNC and sync.streams == row.streams:
                return f"{row.rate / sync.rate:.2f}x", f"{row.p50_us / sync.p50_us:.2f}x"
        return "", ""


def markdown(report: Report) -> str:
    """The report for the docs."""
    parts = [markdown_table(columns, rows) for columns, rows in report.tables()]
    parts.append("\n".join(f"* {note}" for note in report.notes()))
    return "\n\n".join(parts) + "\n"


def machine() -> dict[str, str]:
    """What the figures depend on besides the code; ask before the load, for the load average of others."""
    return {
        "CPUs": str(os.cpu_count()),
        LOAD_AVERAGE: f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def doubts(machine: dict[str, str]) -> list[str]:
    """What makes figures doubtful: others used the CPUs."""
    load_average = machine[LOAD_AVERAGE]
    if float(load_average) <= QUIET_LOAD_AVERAGE:
        return []
    return [f"Not to be relied on: the load average was {load_average} before the start; repeat on a quiet machine."]


def _embedded_cells(row: EmbeddedRow) -> tuple[str, ...]:
    spread = f"{row.rate_min:,.0f}..{row.rate_max:,.0f}"
    return (
        EMBEDDED,
        "any",
        f"{row.rate:,.0f}",
        spread,
        "",
        "",
        f"{row.cpu_us:.1f}",
        "0.0",
        f"{row.cpu_us:.1f}",
        "",
        "",
        "",
    )


def _memory_cells(memory: Memory) -> tuple[str, ...]:
    children = memory.processes - 1
    per_child = f"{memory.idle_children / children:.1f}" if children else ""
    return (
        memory.server,
        str(memory.processes),
        f"{memory.idle_front:.1f}",
        per_child,
        f"{memory.after_load:.1f}",
    )
