"""Sizes and times with units: what is accepted, what is shown, and what an error says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tykpy.broker.units import parse_size, parse_time, parse_whole, show_size, show_time


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("5", 5),
        ("9007199254740992", 2**53),
        ("7B", 7),
        ("16MB", 16_000_000),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("2TiB", 2 << 40),
        ("0.0001KiB", 1),
    ],
)
def test_a_size_has_a_unit_or_is_in_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), ("0.25", 0.25), ("1.5s", 1.5), ("100ms", 0.1), ("2m", 120), ("1h", 3600), ("1.5 d", 129_600)],
)
def test_a_time_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "5K", "5M", "-1MiB", "1e3MiB", "1 2MiB", "9" * 19 + "MiB", "٣MiB", "٣", "1_0"]
)
def test_another_size_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: give bytes, or a number with KiB, MiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "x", "5x", "5M", "-1s", "inf", "nan", "1h30m", "1,5s", "٣", "1_0", "1e400"])
def test_another_time_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: give seconds, or a number with ms, s, m"):
        parse_time(text)


@pytest.mark.parametrize("text", ["", "x", "٣", "\uff11\uff12", "²", "1_0", "0x3", "3.0", "9" * 5_000])
def test_a_whole_number_has_plain_digits(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number") as caught:
        parse_whole(text)
    assert len(str(caught.value)) < 200


@given(st.integers(0, 2**53))
def test_a_shown_size_is_that_size(size: int) -> None:
    assert parse_size(show_size(size)) == size


@given(st.one_of(st.integers(0, 10**9), st.integers(0, 10**7).map(lambda number: number / 1000)))
def test_a_shown_time_is_that_time(seconds: float) -> None:
    assert parse_time(show_time(seconds)) == seconds


def test_the_largest_exact_unit_is_shown() -> None:
    sizes = [show_size(size) for size in (0, 1001, 1000, 1024, 48 << 20, 16_000_000, 1 << 30)]
    assert sizes == ["0", "1001B", "1KB", "1KiB", "48MiB", "16MB", "1GiB"]
    times = [show_time(seconds) for seconds in (0.0, 0.5, 0.0015, 1.5, 10.0, 90, 120, 3600, 86_400)]
    assert times == ["0", "500ms", "1.5ms", "1.5s", "10s", "90s", "2m", "1h", "1d"]
