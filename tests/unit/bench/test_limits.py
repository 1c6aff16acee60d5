"""What limits a case, told from CPU shares and what waits."""

from typing import Any

import pytest

from tests.unit.bench.samples import result, sample
from tykpy.bench.limits import Bottleneck, disturbance, failures_text, limit_of


@pytest.mark.parametrize(
    ("used", "part"),
    [
        ({"load": 0.95}, Bottleneck.LOAD),
        ({"load": 1.2, "load_processes": 2, "broker": 0.97}, Bottleneck.BROKER),
        ({"broker": 0.97, "machine": 2.5, "waiting": 40}, Bottleneck.BROKER),
        ({"broker": 0.97, "machine": 7.9}, Bottleneck.BROKER),
        ({"workers": (0.97, 0.95), "machine": 7.9}, Bottleneck.WORKERS),
        ({"workers": (0.97, 0.95), "waiting": 40}, Bottleneck.WORKERS),
        ({"workers": (0.85, 0.85), "broker": 0.8, "load": 0.3, "machine": 7.9, "waiting": 9}, Bottleneck.MACHINE),
        ({"workers": (0.05, 0.05), "broker": 0.1, "waiting": 200}, Bottleneck.WORKERS),
        ({"workers": (0.6, 0.6), "broker": 0.8, "waiting": 20}, Bottleneck.BROKER),
        ({"workers": (0.8, 0.8), "broker": 0.6, "waiting": 20}, Bottleneck.WORKERS),
        ({"workers": (0.05, 0.05), "broker": 0.1, "machine": 7.9, "waiting": 200}, Bottleneck.WORKERS),
        ({"workers": (0.7, 0.7), "broker": 0.8}, Bottleneck.BROKER),
        ({"workers": (0.7, 0.7), "broker": 0.6}, Bottleneck.WORKERS),
        ({}, Bottleneck.OFFERED),
        ({"waiting": None}, Bottleneck.UNKNOWN),
        ({"broker": None, "workers": None}, Bottleneck.UNKNOWN),
    ],
)
def test_a_closed_loop_is_limited_by(used: dict[str, Any], part: Bottleneck) -> None:
    assert limit_of(result(sample(**used))).part is part


def test_few_calls_at_once_are_no_crowd() -> None:
    busy = sample(workers=(0.3, 0.3), broker=0.6)
    assert limit_of(result(busy, streams=1)).part is Bottleneck.OFFERED
    assert limit_of(result(busy, streams=5)).part is Bottleneck.BROKER


def test_a_rate_that_was_met_is_not_limited() -> None:
    assert limit_of(result(sample(995), rate=1000.0)).part is Bottleneck.NONE
    assert limit_of(result(sample(800, broker=0.96), rate=1000.0)).part is Bottleneck.BROKER


def test_the_reason_names_figures_and_a_way_out() -> None:
    full = limit_of(result(sample(machine=7.9, broker=0.8, workers=(0.85,), load=0.3)))
    assert full.reason == ("all 8 CPUs are used: broker 0.80, workers 0.85, load generator 0.30, other processes 5.95")
    assert "--threads" in limit_of(result(sample(waiting=200))).reason
    assert "--streams" in limit_of(result()).reason


def test_the_repetition_with_the_median_rate_decides() -> None:
    busy, idle = sample(2000, broker=0.95), sample(1000)
    assert limit_of(result(idle, busy, sample(3000))).part is Bottleneck.BROKER


def test_other_processes_make_figures_doubtful() -> None:
    assert disturbance([result()]) == ""
    assert "up to 4.8 of 8 CPUs" in disturbance([result(sample(machine=6.0), sample())])
    assert disturbance([]) == ""


def test_an_invisible_broker_is_not_another_process() -> None:
    unseen = result(sample(machine=7.9, broker=None, workers=None))
    assert disturbance([unseen]) == ""
    assert limit_of(unseen).reason == "all 8 CPUs are used: load generator 0.20, all else, perhaps the broker 7.70"


def test_a_busy_neighbour_is_named_beside_what_limits() -> None:
    limit = limit_of(result(sample(workers=(0.7, 0.7), broker=0.6, machine=4.0, waiting=9)))
    assert limit.part is Bottleneck.WORKERS
    assert limit.reason.endswith("with 0.70 CPUs, while other processes used 1.80 of 8")


def test_failures_are_listed_most_frequent_first() -> None:
    assert failures_text(result()) == ""
    text = failures_text(result(sample(failures={"NOT_FOUND: x": 2, "INTERNAL: y": 1500}, unanswered=1)))
    assert text == "1,503 calls failed (1,500 x INTERNAL: y; 2 x NOT_FOUND: x)"
