"""Costs told apart by process; how they are read is tested with `bench.measure`."""

import os
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Cost
from tests.unit.bench.test_measure import fake_process


def test_cost_per_request_is_told_apart_by_process() -> None:
    before = {10: 1_000_000, 11: 5_000_000, 12: 0}
    after = {10: 3_000_000, 11: 6_000_000, 12: 500_000, 13: 99}
    cost = measure.cpu_per_request(before, after, 100)
    assert cost == Cost(20.0, 15.0)
    assert cost.total == 35.0


def test_memory_is_that_of_the_first_and_of_all_others(tmp_path: Path) -> None:
    for pid in (3, 4, 5):
        fake_process(tmp_path, pid, threads={pid: 0})
    assert measure.memory([3, 4, 5], tmp_path) == Cost(3.0, 9.0)


def test_a_bare_interpreter_has_some_memory() -> None:
    assert measure.bare_interpreter_mib() > 1
    assert measure.memory([os.getpid()]).front > measure.bare_interpreter_mib()
