"""The JSON file: what is written is read again, and what is not ours is refused with a reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bench.samples import report, result, sample
from tykpy.bench.errors import BenchError
from tykpy.bench.results import read_json, write_json

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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tykpy_bench": 99}, "(?i)invalid enum value 99"),
        ({"results": [{}]}, "missing required field"),
        ({"results": [{"case": {"colour": 1}, "samples": []}]}, "missing required field"),
        ({"machine": 7}, "Expected `object`"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.json"
    write_json(FULL, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(BenchError, match="not a JSON file of this version of tykpy bench") as refused:
        read_json(path)
    assert re.search(reason, str(refused.value))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"a"'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BenchError, match="not a JSON file of this version"):
        read_json(tmp_path / "a.json")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot write"):
        write_json(FULL, tmp_path / "no" / "a.json")
    with pytest.raises(BenchError, match="cannot read"):
        read_json(tmp_path / "none.json")
