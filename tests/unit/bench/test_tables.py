"""The tables of a terminal: what a narrow one goes without."""

import pytest

from tests.unit.bench.samples import result
from tykpy.bench.tables import COLUMNS, fitting, row

RESULTS = [result(), result(workers=64, threads=16, tracing=True)]
ROWS = [row(one) for one in RESULTS]


def test_a_wide_terminal_has_all_columns() -> None:
    assert fitting(ROWS, 200) == COLUMNS


@pytest.mark.parametrize("width", [60, 80, 100, 120, 150])
def test_a_narrow_terminal_has_fewer_columns_and_wraps_none(width: int) -> None:
    shown = fitting(ROWS, width)
    assert [*shown] == [column for column in COLUMNS if column in shown], "in their order"
    assert {"case", "dispatches/s", "p99", "limit"} <= set(shown)
    widths = [max(len(column), *(len(cells[COLUMNS.index(column)]) for cells in ROWS)) for column in shown]
    assert sum(widths) + 3 * len(widths) + 1 <= width or len(shown) == 4


def test_the_ring_is_left_out_first() -> None:
    assert set(COLUMNS) - set(fitting(ROWS, 180)) == {"of it ring"}


def test_nothing_to_show_is_no_error() -> None:
    assert fitting([], 80)[0] == "case"
