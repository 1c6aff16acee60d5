"""How commands show values to people."""

from tykpy.commands.terminal import long_time


def test_long_times_have_two_units() -> None:
    times = (0.25, 5, 65, 3_700, 90_000)
    assert [long_time(one) for one in times] == ["0.2 s", "5.0 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]
