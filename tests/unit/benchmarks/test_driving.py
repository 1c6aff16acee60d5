"""CPU per dispatch told apart by process, and memory."""

import os

import pytest

from benchmarks.driving import LoadCase, bare_interpreter_mib
from benchmarks.h2load import Load
from benchmarks.rounds import Reading
from tykpy.bench.measure import memory_mib


def test_cpu_is_that_of_front_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([{10: 1_000_000, 11: 5_000_000, 12: 0}, {10: 3_000_000, 11: 6_000_000, 12: 500_000}])
    monkeypatch.setattr("benchmarks.driving.cpu_ns", lambda pids: next(clocks))
    calls: list[int] = []

    def run(count: int) -> Load:
        calls.append(count)
        return Load(100, 1000.0, 7.0, 9.0, 4.0)

    case = LoadCase("case", lambda: [10, 11, 12], run, at_once=2, seconds=3.0)
    case.warm_up()
    assert case.measure() == Reading(1000.0, 7.0, 20.0, 15.0, 4.0, 9.0)
    assert calls == [1000, 3000], "as many calls as fill the time"


def test_a_bare_interpreter_has_some_memory() -> None:
    assert bare_interpreter_mib() > 1
    assert memory_mib([os.getpid()])[0] > bare_interpreter_mib()
