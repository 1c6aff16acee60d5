"""Medians, spread and the names of cases."""

import pytest

from tests.unit.bench.samples import MS, histogram_of, result, sample
from tykpy.bench.results import Case, Figure, group, labels


def test_a_figure_is_the_median_and_what_lies_around_it() -> None:
    found = result(sample(1000), sample(900), sample(1100)).figure("rate")
    assert found == Figure(1000, 900, 1100, 3)
    assert found.spread == pytest.approx(0.2)


def test_cpu_per_dispatch_comes_from_cpus_and_rate() -> None:
    found = result(sample(10_000, broker=0.5, workers=(0.2, 0.3), load=0.1))
    assert found.median("broker_us") == pytest.approx(50)
    assert found.median("workers_us") == pytest.approx(50)
    assert found.median("total_us") == pytest.approx(100)
    assert found.median("load_us") == pytest.approx(10)
    assert found.median("memory_mib") == pytest.approx(63)


def test_invisible_figures_are_none() -> None:
    unseen = result(sample(broker=None, workers=None, broker_mib=None, worker_mib=None))
    assert unseen.figure("broker_us") is unseen.figure("total_us") is unseen.figure("memory_mib") is None
    assert unseen.median("rate") == 1000


def test_without_answers_there_is_no_cost_per_answer() -> None:
    assert result(sample(0, ())).median("broker_us") is None


def test_latencies_and_failures_of_all_repetitions_count() -> None:
    both = result(sample(latencies=[MS], failures={"a": 1, "b": 2}), sample(latencies=[9 * MS], failures={"a": 4}))
    assert both.latencies_ns == histogram_of([MS, 9 * MS])
    assert both.failures == {"a": 5, "b": 2}
    assert both.failed == 7


def test_the_title_of_a_case_has_its_settings() -> None:
    assert Case("cpu", 1, 1, 32).title == "cpu, 1 worker, 1 thread, 32 streams"
    assert Case("wait", 8, 16, 0, 6400.0, 1024).title == "wait, 8 workers, 16 threads, 6,400/s, 1KiB body"
    assert Case("own", 0, 0, 8).title == "own, 8 streams"


def test_groups_keep_their_order() -> None:
    results = [result(workers=workers, streams=streams) for streams in (64, 8) for workers in (1, 2)]
    groups = group(results, lambda case: case.streams)
    assert [(key, [one.case.workers for one in found]) for key, found in groups.items()] == [(64, [1, 2]), (8, [1, 2])]


def test_labels_leave_out_what_all_cases_have_in_common() -> None:
    cases = [Case("body", workers, 0, 8, 0.0, size) for workers in (1, 2) for size in (1024, 2048)]
    assert labels(cases)[:2] == ["1 worker, 1KiB body", "1 worker, 2KiB body"]
    assert labels(cases[:2], with_workers=False) == ["1KiB body", "2KiB body"]
    assert labels(cases[:2]) == ["1KiB body", "2KiB body"]
    assert labels(cases[:1]) == ["1 worker"]
    assert labels(cases[:1], with_workers=False) == ["8 streams, 1KiB body"]


def test_labels_name_defaults_that_differ_between_cases() -> None:
    cases = [result(threads=threads).case for threads in (0, 1, 3)]
    assert labels(cases) == ["threads: auto", "1 thread", "3 threads"]
    traced = [result(tracing=tracing, threads=threads).case for threads in (1, 3) for tracing in (False, True)]
    assert labels(traced) == [
        "1 thread, no traceparents", "1 thread, traceparents", "3 threads, no traceparents", "3 threads, traceparents",
    ]  # fmt: skip
