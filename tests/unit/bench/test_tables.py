"""The tables of a terminal: what a narrow one goes without."""

import pytest

from tests.unit.bench.samples import result
from tykpy.bench.program import table_of
from tykpy.bench.tables import COLUMNS, fitting, hidden_columns, row

RESULTS = [result(), result(workers=64, threads=16, tracing=True)]
ROWS = [row(one) for one in RESULTS]


def test_a_wide_terminal_has_all_columns() -> None:
    assert fitting(ROWS, 200) == COLUMNS
    assert hidden_columns(RESULTS, 200) == []


@pytest.mark.parametrize("width", [60, 80, 100, 120, 150])
def test_a_narrow_terminal_has_fewer_columns_and_wraps_none(width: int) -> None:
    shown = fitting(ROWS, width)
    assert [*shown] == [column for column in COLUMNS if column in shown], "in their order"
    assert {"case", "dispatches/s", "p99", "limit"} <= set(shown)
    assert set(hidden_columns(RESULTS, width)) == set(COLUMNS) - set(shown)
    table = table_of(RESULTS, width)
    assert [column.header for column in table.columns] == list(shown)


def test_the_ring_is_left_out_first() -> None:
    (first,) = hidden_columns(RESULTS, 180)
    assert first == "of it ring"


def test_nothing_to_show_is_no_error() -> None:
    assert fitting([], 80)[0] == "case"
