"""Replay the fuzzers' corpus within a memory limit, so that fixed findings stay fixed."""

import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_replay(path: Path) -> None:
    data = path.read_bytes()
    target = TARGETS[path.parent.name]
    target.run(data)  # fills tables and caches, which are not measured
    tracemalloc.start()
    try:
        target.run(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= target.most + len(data), f"{peak} bytes for an input of {len(data)}"


def test_every_target_has_inputs() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_at_all_does_no_harm(name: str) -> None:
    TARGETS[name].run(b"")
