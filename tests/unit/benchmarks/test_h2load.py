"""Reading h2load's output, and refusing what does not measure what was meant."""

from pathlib import Path

import pytest

from benchmarks import h2load
from benchmarks.h2load import Summary
from tykpy.bench.errors import BenchError

OUTPUT = """\
starting benchmark...
spawning thread #0: 1 total client(s). 2000 total requests
Application protocol: h2c
progress: 100% done

finished in 532.29ms, 3757.37 req/s, 3.33MB/s
requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.77MB (1858304) total, 5.93KB (6075) headers (space savings 96.25%), 1.67MB (1748000) data
                     min         max         mean         sd        +/- sd
time for request:      600us     10.62ms      2.11ms       684us    86.65%
req/s           :    3759.28     3759.28     3759.28        0.00   100.00%
"""
ANSWER_SIZE = 874


def test_the_summary_is_read() -> None:
    assert h2load.parse_summary(OUTPUT) == Summary(3757.37, 2000, 2000, 2000, 1_748_000)


def test_a_run_in_which_every_answer_is_a_message_passes() -> None:
    h2load.check(h2load.parse_summary(OUTPUT), 2000, ANSWER_SIZE)


def test_a_failed_request_is_an_error() -> None:
    text = OUTPUT.replace("2000 succeeded, 0 failed", "1999 succeeded, 1 failed").replace("2000 2xx, 0", "1999 2xx, 1")
    with pytest.raises(BenchError, match="1999 were answered by 2xx"):
        h2load.check(h2load.parse_summary(text), 2000, ANSWER_SIZE)


def test_grpc_errors_show_by_their_missing_bytes() -> None:
    with pytest.raises(BenchError, match="errors or wrong"):
        h2load.check(h2load.parse_summary(OUTPUT.replace("(1748000)", "(1747126)")), 2000, ANSWER_SIZE)


@pytest.mark.parametrize(
    "text", ["", "nonsense", OUTPUT.replace("status codes", "codes"), OUTPUT.replace("traffic", "")]
)
def test_other_output_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(BenchError, match="not understood"):
        h2load.parse_summary(text)


def test_latencies_are_read_from_the_log() -> None:
    log = "1795383195431211\t200\t8044\n1795383195431214\t200\t9005\n1795383195431213\t200\t7\n"
    assert h2load.parse_log(log) == [8044, 9005, 7]


@pytest.mark.parametrize(
    "line", ["1795383195431211\t-1\t8044", "1795383195431211\t503\t80", "1795383195431211\t200", "x"]
)
def test_a_failed_or_unknown_line_of_the_log_is_an_error(line: str) -> None:
    with pytest.raises(BenchError, match="a request failed"):
        h2load.parse_log(f"1\t200\t3\n{line}\n")


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 50, 7),
        ([1, 2], 50, 1),
        ([1, 2, 3], 50, 2),
        (range(1, 101), 50, 50),
        (range(1, 101), 99, 99),
        ([1, 9], 99, 9),
    ],
)
def test_percentiles_are_nearest_rank(values: list[float], percent: float, expected: float) -> None:
    assert h2load.percentile(values, percent) == expected


def test_no_latencies_are_an_error() -> None:
    with pytest.raises(BenchError):
        h2load.percentile([], 50)


def test_a_missing_h2load_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="apt-get install nghttp2-client"):
        h2load.find()


def fake_h2load(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = folder / "h2load"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    body = folder / "request"
    body.write_bytes(b"body")
    return body


def test_a_run_leaves_out_the_first_request_of_each_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output").write_text(OUTPUT)
    rows = [f"1\t200\t{9000 if number < 8 else 100 + number % 2}" for number in range(2000)]
    (tmp_path / "rows").write_text("\n".join(rows) + "\n")
    body = fake_h2load(tmp_path, f"cp {tmp_path}/rows {tmp_path}/request.log; cat {tmp_path}/output", monkeypatch)
    load = h2load.run(tmp_path / "socket", body, 2000, 8, ANSWER_SIZE)
    assert (load.requests, load.rate, load.p50_us, load.p99_us) == (2000, 3757.37, 100, 101)
    assert load.cpu_us >= 0


def test_an_h2load_that_fails_is_an_error_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = fake_h2load(tmp_path, "echo no such socket >&2; exit 1", monkeypatch)
    with pytest.raises(BenchError, match="no such socket"):
        h2load.run(tmp_path / "socket", body, 10, 1, ANSWER_SIZE)
