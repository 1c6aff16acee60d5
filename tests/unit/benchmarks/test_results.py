"""The tables of the benchmark."""

import json

from benchmarks.contenders import SYNC
from benchmarks.h2load import Load
from benchmarks.measure import Cost
from benchmarks.objects import OBJECT_SIZE, expected_answer, framed, request_bytes, typical_post
from benchmarks.results import Memory, Report, Sample, embedded_row, machine, markdown, median_row
from benchmarks.servers import embedded, hook
from benchmarks.servers.embedded import EmbeddedResult
from tyk.proto.coprocess_object_pb2 import Object


def sample(rate: float, p50: float, front: float, workers: float = 0.0) -> Sample:
    return Sample(Load(1000, rate, p50, p50 * 2, 20.0), Cost(front, workers))


def report(load_average: str = "0.1") -> Report:
    rows = (
        median_row(SYNC, 64, [sample(1000, 900, 400), sample(3000, 700, 300), sample(2000, 800, 350)]),
        median_row("tykpy, 2 workers", 64, [sample(16_000, 200, 40, 20)]),
        median_row("tykpy, 2 workers", 1, [sample(4_000, 250, 60, 30)]),
    )
    memory = (Memory(SYNC, 1, 20.0, 0.0, 25.0), Memory("tykpy, 2 workers", 3, 15.0, 30.0, 50.0))
    inside = embedded_row([EmbeddedResult(rate, 1e6 / rate) for rate in (100_000.0, 50_000.0, 200_000.0)])
    depends_on = {**machine(), "load average": load_average}
    return Report("python -m benchmarks.compare", depends_on, rows, memory, 8.0, inside)


def test_a_row_has_the_medians_and_the_spread() -> None:
    row = report().rows[0]
    assert (row.rate, row.rate_min, row.rate_max) == (2000, 1000, 3000)
    assert (row.p50_us, row.p99_us, row.front_us, row.total_us) == (800, 1600, 350, 350)


def test_the_embedded_drivers_model_is_a_row_with_its_spread() -> None:
    assert "| embedded model | any | 100,000 | 50,000..200,000 |  |  | 10.0 | 0.0 | 10.0 |" in markdown(report())
    assert "one process and one lock" in markdown(report())


def test_rows_are_compared_with_the_sync_server_at_the_same_number_of_streams() -> None:
    text = markdown(report())
    assert "| tykpy, 2 workers | 64 | 16,000 |" in text
    assert text.splitlines()[3].endswith("| 8.00x | 0.25x |")
    assert text.splitlines()[4].endswith("|  |  |")


def test_memory_per_worker_leaves_the_front_out() -> None:
    assert "| tykpy, 2 workers | 3 | 15.0 | 15.0 | 50.0 |" in markdown(report())
    assert f"| {SYNC} | 1 | 20.0 |  | 25.0 |" in markdown(report())


def test_a_busy_machine_is_owned_up_to() -> None:
    assert "Not to be relied on" in markdown(report("3.0"))
    assert "Not to be relied on" not in markdown(report())


def test_json_says_what_the_figures_depend_on() -> None:
    data = json.loads(json.dumps(report().as_dict()))
    assert data["machine"]["grpcio"]
    assert data["rows"][1]["workers_us"] == 20


def test_the_object_is_as_large_as_the_figures_say_and_the_servers_hook_makes_the_expected_of_it() -> None:
    data = request_bytes()
    assert len(data) == OBJECT_SIZE
    assert Object.FromString(data) == typical_post()
    assert Object.FromString(hook.add_header_to_bytes(data)) == expected_answer() != typical_post()
    assert framed(b"abc") == b"\0\0\0\0\x03abc"


def test_the_embedded_model_is_measured() -> None:
    result = embedded.measure(request_bytes(), 0.0)  # also where the time is over before it began
    assert result.rate > 0
    assert result.cpu_us > 0
