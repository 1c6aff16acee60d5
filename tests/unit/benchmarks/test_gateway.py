"""The tables of the benchmark through a gateway, and what they are made of."""

import json
from pathlib import Path

import pytest

from benchmarks.gateway import fronts, load
from benchmarks.gateway.columns import COLUMNS, write_bundles
from benchmarks.gateway.load import HttpLoad
from benchmarks.gateway.measuring import Cell, CellReading, CellReadings, GatewayPlan, Measured
from benchmarks.gateway.plugins import PLUGINS, Plugin
from benchmarks.gateway.report import findings
from benchmarks.reports import Findings
from tykpy.bench.errors import BenchError, ServerError

MACHINE = {"load average": "0.1", "kernel": "6"}
HEADER = COLUMNS[0]


def plugin(key: str) -> Plugin:
    return next(plugin for plugin in PLUGINS if plugin.key == key)


def sample(rate: float, p50_us: float, errors: int = 0) -> CellReading:
    return CellReading(HttpLoad(rate, errors, 1000, p50_us, 2 * p50_us, 5.0), 90.0, 20.0, 10.0, 15.0)


def report() -> Findings:
    samples: CellReadings = {
        Cell(plugin("floor"), HEADER, 1): [sample(900, 1000.0)],
        Cell(plugin("tykpy"), HEADER, 1): [sample(800, 1250.0)],
        Cell(plugin("floor"), HEADER, 16): [sample(1000, 1.0), sample(2000, 1.0), sample(3000, 1.0)],
        Cell(plugin("tykpy"), HEADER, 16): [sample(900, 1.0), sample(1600, 1.0), sample(2550, 1.0)],
        Cell(plugin("tykpy"), COLUMNS[3], 16): [sample(120, 1.0, errors=250)],
    }
    plan = GatewayPlan((plugin("floor"), plugin("tykpy")), (HEADER, COLUMNS[3]), (1, 16))
    return findings("a gateway", plan, Measured(samples, {"grpcio": "no such thing"}))


def test_tables_have_medians_and_errors() -> None:
    text = report().markdown(MACHINE, "python -m benchmarks.gateway")
    assert "| 1 client, p50 ms | header edit | 20 ms waiting |\n| --- | --- | --- |\n| floor | 1.00 | - |" in text
    assert "| 16 clients, requests/s | header edit | 20 ms waiting |" in text
    assert "| tykpy | 1,600 | 120 (25.0% errors) |" in text
    assert "| tykpy: header edit | 90 | 20 | 10 | 15 | 5 |" in text
    assert "* Not measured: grpcio: no such thing\n" in text
    assert "Not to be relied on" not in text


def test_ratios_to_the_floor_are_medians_of_rounds() -> None:
    text = report().markdown(MACHINE, "python -m benchmarks.gateway")
    assert "* header edit, 1 client: 1.25 of the floor's p50.\n" in text
    assert "* header edit, 16 clients: 0.85 of the floor's requests/s.\n" in text


def test_json_has_every_round() -> None:
    data = json.loads(json.dumps(report().as_dict(MACHINE, "python -m benchmarks.gateway")))
    cell = data["cells"][3]
    assert (cell["server"], cell["column"], cell["clients"], cell["rate"]) == ("tykpy", "header", 16, 1600)
    assert [each["rate"] for each in cell["rounds"]] == [900, 1600, 2550]
    assert data["cells"][4]["errors"] == 0.25


def test_a_log_is_read() -> None:
    found = load.read("1\t200\t30\n2\t500\t1\n3\t200\t10\n4\t200\t20\n", 2.0, 0.004)
    assert found == HttpLoad(rate=1.5, errors=1, requests=4, p50_us=20, p99_us=30, cpu_us=1000.0)


def test_a_run_without_answers_is_an_error() -> None:
    with pytest.raises(BenchError, match="of 1 requests none"):
        load.read("1\t500\t30\n", 2.0, 0.004)


def test_bundles_use_the_decorator_of_their_driver(tmp_path: Path) -> None:
    for driver, decorator in (("grpc", "Pre"), ("python", "Hook")):
        write_bundles(tmp_path / driver, COLUMNS, driver)
        folders = list((tmp_path / driver).iterdir())
        assert len(folders) == len(COLUMNS)
        for folder in folders:
            assert json.loads((folder / "manifest.json").read_text())["custom_middleware"]["driver"] == driver
            source = (folder / "middleware.py").read_text()
            assert f"from tyk.decorators import {decorator}\n" in source
            assert f"\n@{decorator}\ndef " in source


def test_a_missing_tyk_gateway_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no such program"):
        fronts.tyk(tmp_path / "tyk")
