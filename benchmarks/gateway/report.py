"""The tables of a run: medians over its rounds, what each program costs, and how far the floor is."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.gateway.measuring import Measured, Plan, Sample
from benchmarks.output import markdown_table
from benchmarks.results import doubts

FLOOR: Final = "floor"
OURS: Final = "tykpy"
MISSING: Final = "-"
CPU_COLUMNS: Final = ("CPU us per request", "gateway", "plugin server", "its workers", "upstream", "load generator")
FLOOR_NOTE: Final = (
    "floor: a gRPC server in Go that sends every object back unread, the most that any plugin server can reach."
)

Figure = Callable[[Sample], float]
FIGURES: Final[dict[str, Figure]] = {
    "rate": lambda sample: sample.load.rate,
    "p50_us": lambda sample: sample.load.p50_us,
    "p99_us": lambda sample: sample.load.p99_us,
    "errors": lambda sample: sample.load.errors / sample.load.requests,
    "gateway_us": lambda sample: sample.gateway_us,
    "front_us": lambda sample: sample.front_us,
    "workers_us": lambda sample: sample.workers_us,
    "upstream_us": lambda sample: sample.upstream_us,
    "load_us": lambda sample: sample.load.cpu_us,
}
CPU_FIGURES: Final = ("gateway_us", "front_us", "workers_us", "upstream_us", "load_us")


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """One run."""

    command: str
    gateway: str
    machine: dict[str, str]
    plan: Plan
    measured: Measured

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the medians of each cell, and its rounds."""
        return {
            "command": self.command,
            "gateway": self.gateway,
            "machine": self.machine,
            "seconds": self.plan.seconds,
            "left_out": self.measured.left_out,
            "cells": [
                {
                    "server": cell.plugin.key,
                    "column": cell.column.key,
                    "clients": cell.clients,
                    **{name: _median(rounds, figure) for name, figure in FIGURES.items()},
                    "rounds": [{name: figure(sample) for name, figure in FIGURES.items()} for sample in rounds],
                }
                for cell, rounds in self.measured.samples.items()
            ],
        }

    def markdown(self) -> str:
        """For people."""
        tables = [*(self._speed(clients) for clients in self.plan.clients), self._cost(self.plan.clients[-1])]
        return "\n\n".join([*tables, "\n".join(f"* {note}" for note in self._notes())]) + "\n"

    def _speed(self, clients: int) -> str:
        head = "1 client, p50 ms" if clients == 1 else f"{clients} clients, requests/s"
        columns = (head, *(column.title for column in self.plan.columns))
        return markdown_table(columns, [self._speed_row(title, clients) for title in self._titles()])

    def _speed_row(self, title: str, clients: int) -> tuple[str, ...]:
        rounds = {
            cell.column: rounds
            for cell, rounds in self.measured.samples.items()
            if (cell.plugin.title, cell.clients) == (title, clients)
        }
        speed = _latency if clients == 1 else _rate
        return title, *(speed(rounds[column]) if column in rounds else MISSING for column in self.plan.columns)

    def _cost(self, clients: int) -> str:
        rows = [
            (
                f"{cell.plugin.title}: {cell.column.title}",
                *(f"{_median(rounds, FIGURES[name]):.0f}" for name in CPU_FIGURES),
            )
            for cell, rounds in self.measured.samples.items()
            if cell.clients == clients
        ]
        return markdown_table((f"{CPU_COLUMNS[0]}, {clients} clients", *CPU_COLUMNS[1:]), rows)

    def _titles(self) -> list[str]:
        return list(dict.fromkeys(cell.plugin.title for cell in self.measured.samples))

    def _notes(self) -> list[str]:
        return [
            *doubts(self.machine),
            *(f"Not measured: {title}: {why}" for title, why in self.measured.left_out.items()),
            *self._against_floor(),
            FLOOR_NOTE,
            f"Medians of {self.plan.rounds} interleaved rounds of {self.plan.seconds} s through {self.gateway}; "
            "clients, gateway, plugin server and upstream share the CPUs.",
            ", ".join(f"{key} {value}" for key, value in self.machine.items()),
            f"Made by: {self.command}",
        ]

    def _against_floor(self) -> list[str]:
        """How far from the floor each of our cells is: the median of the rounds' ratios."""
        rounds_of = {
            (cell.plugin.key, cell.column, cell.clients): rounds for cell, rounds in self.measured.samples.items()
        }
        found = []
        for (key, column, clients), ours in rounds_of.items():
            floor = rounds_of.get((FLOOR, column, clients))
            if key == OURS and floor is not None:
                what, name = ("p50", "p50_us") if clients == 1 else ("requests/s", "rate")
                figure = FIGURES[name]
                ratio = statistics.median(figure(a) / figure(b) for a, b in zip(ours, floor, strict=True))
                who = "1 client" if clients == 1 else f"{clients} clients"
                found.append(f"{column.title}, {who}: {ratio:.2f} of the floor's {what}.")
        return found


def _median(rounds: Sequence[Sample], figure: Figure) -> float:
    return statistics.median(map(figure, rounds))


def _latency(rounds: Sequence[Sample]) -> str:
    return f"{_median(rounds, FIGURES['p50_us']) / 1000:.2f}" + _errors(rounds)


def _rate(rounds: Sequence[Sample]) -> str:
    return f"{_median(rounds, FIGURES['rate']):,.0f}" + _errors(rounds)


def _errors(rounds: Sequence[Sample]) -> str:
    """The share of requests that failed, where any did."""
    if not any(sample.load.errors for sample in rounds):
        return ""
    return f" ({_median(rounds, FIGURES['errors']):.1%} errors)"
