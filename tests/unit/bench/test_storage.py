"""The JSON file: what is written is read again, and what is not ours is refused with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bench.samples import report, result, sample
from tykpy.bench.errors import BenchError
from tykpy.bench.results import as_dict, read_json, write_json

FULL = report(
    result(sample(failures={"INTERNAL: x": 3}, unanswered=2), sample(900)),
    result(sample(broker=None, workers=None, broker_mib=None, worker_mib=None, waiting=None), rate=5.0, body_size=7),
)


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    write_json(FULL, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == FULL


def test_medians_are_there_for_scripts(tmp_path: Path) -> None:
    write_json(FULL, tmp_path / "a.json")
    first, second = json.loads((tmp_path / "a.json").read_text())["results"]
    assert first["medians"]["rate"] == 950
    assert first["case"]["scenario"] == "header"
    assert second["medians"]["total_us"] is None


def damaged(**changes: Any) -> str:
    return json.dumps(as_dict(FULL) | changes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot read"),
        ("[]", "not a JSON file of this version"),
        ('{"tykpy_bench": 99}', "not a JSON file of this version"),
        (damaged(results=[{}]), "damaged"),
        (damaged(results=[{"case": {"colour": 1}, "samples": []}]), "damaged"),
        (damaged(machine=7), "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BenchError, match=reason):
        read_json(tmp_path / "a.json")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot write"):
        write_json(FULL, tmp_path / "no" / "a.json")
    with pytest.raises(BenchError, match="cannot read"):
        read_json(tmp_path / "none.json")
