"""The tables of `benchmarks.compare`."""

import json

from benchmarks.compare import EMBEDDED, ServerMemory, findings
from benchmarks.contenders import SYNC
from benchmarks.objects import OBJECT_SIZE, expected_answer, framed, request_bytes, typical_post
from benchmarks.reports import Findings, machine
from benchmarks.rounds import Reading, Readings
from benchmarks.servers import embedded, hook
from tyk.proto.coprocess_object_pb2 import Object


def reading(rate: float, p50: float, front: float, workers: float = 0.0) -> Reading:
    return Reading(rate, p50, front, workers, 20.0, p50 * 2)


def report() -> Findings:
    rounds = {
        f"{SYNC}; 64": [reading(1000, 900, 400), reading(3000, 700, 300), reading(2000, 800, 350)],
        "tykpy, 2 workers; 64": [reading(16_000, 200, 40, 20)],
        "tykpy, 2 workers; 1": [reading(4_000, 250, 60, 30)],
        EMBEDDED: [reading(rate, 0.0, 1e6 / rate) for rate in (100_000.0, 50_000.0, 200_000.0)],
    }
    memory = (ServerMemory(SYNC, 1, 20.0, 0.0, 25.0), ServerMemory("tykpy, 2 workers", 3, 15.0, 30.0, 50.0))
    return findings(Readings(rounds), list(rounds)[:3], memory, 8.0)


def markdown(load_average: str = "0.1") -> str:
    return report().markdown({**machine(), "load average": load_average}, "python -m benchmarks.compare")


def test_a_row_has_the_medians_and_the_spread() -> None:
    row = report().figures["rows"][0]
    assert (row["rate"], row["rate_min"], row["rate_max"]) == (2000, 1000, 3000)
    assert (row["p50_us"], row["p99_us"], row["broker_us"], row["cpu_us"]) == (800, 1600, 350, 350)


def test_the_embedded_model_is_a_row_with_its_spread() -> None:
    assert "| embedded model | any | 100,000 | 50,000..200,000 |  |  | 10.0 | 0.0 | 10.0 |" in markdown()
    assert "one process and one lock" in markdown()


def test_rows_are_compared_with_sync_at_equal_streams() -> None:
    assert "| tykpy, 2 workers | 64 | 16,000 |" in markdown()
    assert markdown().splitlines()[3].endswith("| 8.00x | 0.25x |")
    assert markdown().splitlines()[4].endswith("|  |  |")


def test_memory_per_worker_leaves_the_front_out() -> None:
    assert "| tykpy, 2 workers | 3 | 15.0 | 15.0 | 50.0 |" in markdown()
    assert f"| {SYNC} | 1 | 20.0 |  | 25.0 |" in markdown()


def test_a_busy_machine_makes_figures_doubtful() -> None:
    assert "Not to be relied on" in markdown("3.0")
    assert "Not to be relied on" not in markdown()


def test_json_names_the_versions_of_packages() -> None:
    data = json.loads(json.dumps(report().as_dict(machine(), "a command")))
    assert data["machine"]["grpcio"]
    assert data["rows"][1]["workers_us"] == 20


def test_the_object_has_the_stated_size_and_answer() -> None:
    data = request_bytes()
    assert len(data) == OBJECT_SIZE
    assert Object.FromString(data) == typical_post()
    assert Object.FromString(hook.add_header_to_bytes(data)) == expected_answer() != typical_post()
    assert framed(b"abc") == b"\0\0\0\0\x03abc"


def test_the_embedded_model_is_measured() -> None:
    result = embedded.measure(request_bytes(), 0.0)  # even if the time is over at once
    assert result.rate > 0
    assert result.cpu_us > 0
