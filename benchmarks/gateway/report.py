"""The tables of a run: medians over its rounds, what each program costs, and how far it is from the floor."""

import statistics
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.gateway.measuring import Cell, CellReading, CellReadings, GatewayPlan, Measured
from benchmarks.reports import Findings, Table

FLOOR: Final = "floor"
OURS: Final = "tykpy"
MISSING: Final = "-"
CPU_COLUMNS: Final = ("CPU us per request", "gateway", "plugin server", "its workers", "upstream", "load generator")
FLOOR_NOTE: Final = (
    "floor: a gRPC server in Go that sends every object back unread, the most that any plugin server can reach."
)

Figure = Callable[[CellReading], float]
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


def findings(gateway: str, plan: GatewayPlan, measured: Measured) -> Findings:
    """Return the tables of a run through this kind of gateway."""
    samples = measured.samples
    cells = [
        {
            "server": cell.plugin.key,
            "column": cell.column.key,
            "clients": cell.clients,
            **{name: _median(rounds, figure) for name, figure in FIGURES.items()},
            "rounds": [{name: figure(reading) for name, figure in FIGURES.items()} for reading in rounds],
        }
        for cell, rounds in samples.items()
    ]
    notes = [
        *_against_floor(samples),
        FLOOR_NOTE,
        f"Medians of {plan.pace.rounds} interleaved rounds of {plan.seconds} s through {gateway}; "
        "clients, gateway, plugin server and upstream share the CPUs.",
    ]
    tables = [*(_speed(plan, samples, clients) for clients in plan.clients), _cost(samples, plan.clients[-1])]
    figures = {"gateway": gateway, "seconds": plan.seconds, "cells": cells}
    return Findings(tables, notes, figures, measured.left_out)


def _speed(plan: GatewayPlan, samples: CellReadings, clients: int) -> Table:
    head = "1 client, p50 ms" if clients == 1 else f"{clients} clients, requests/s"
    rows = []
    for plugin in dict.fromkeys(cell.plugin for cell in samples):
        found = [samples.get(Cell(plugin, column, clients)) for column in plan.columns]
        rows.append((plugin.title, *(_speed_text(rounds, clients) if rounds else MISSING for rounds in found)))
    return Table((head, *(column.title for column in plan.columns)), rows)


def _cost(samples: CellReadings, clients: int) -> Table:
    rows = [
        (
            f"{cell.plugin.title}: {cell.column.title}",
            *(f"{_median(rounds, FIGURES[name]):.0f}" for name in CPU_FIGURES),
        )
        for cell, rounds in samples.items()
        if cell.clients == clients
    ]
    return Table((f"{CPU_COLUMNS[0]}, {clients} clients", *CPU_COLUMNS[1:]), rows)


def _against_floor(samples: CellReadings) -> list[str]:
    """Say how far from the floor each of our cells is: the median of the rounds' ratios."""
    floors = {(cell.column, cell.clients): rounds for cell, rounds in samples.items() if cell.plugin.key == FLOOR}
    found = []
    for cell, ours in samples.items():
        floor = floors.get((cell.column, cell.clients))
        if cell.plugin.key == OURS and floor is not None:
            what, name = ("p50", "p50_us") if cell.clients == 1 else ("requests/s", "rate")
            figure = FIGURES[name]
            ratio = statistics.median(figure(a) / figure(b) for a, b in zip(ours, floor, strict=True))
            who = "1 client" if cell.clients == 1 else f"{cell.clients} clients"
            found.append(f"{cell.column.title}, {who}: {ratio:.2f} of the floor's {what}.")
    return found


def _median(rounds: Sequence[CellReading], figure: Figure) -> float:
    return statistics.median(map(figure, rounds))


def _speed_text(rounds: Sequence[CellReading], clients: int) -> str:
    """Return the latency of one client or the rate of several, with the share of requests that failed, if any did."""
    if clients == 1:
        text = f"{_median(rounds, FIGURES['p50_us']) / 1000:.2f}"
    else:
        text = f"{_median(rounds, FIGURES['rate']):,.0f}"
    if any(reading.load.errors for reading in rounds):
        text += f" ({_median(rounds, FIGURES['errors']):.1%} errors)"
    return text
