"""One count of what is unfinished on all connections."""

from broker.arriving import Arriving


def test_what_is_more_than_the_limit_does_not_fit() -> None:
    arriving = Arriving(10)
    assert arriving.change(6, 6)
    assert arriving.change(4, 4)
    assert not arriving.change(1, 5)
    assert (arriving.bytes, arriving.refused) == (11, 1)


def test_one_alone_may_have_more_and_who_asks_for_nothing_may_go_on_beside_it() -> None:
    arriving = Arriving(10)
    assert arriving.change(11, 11)
    assert arriving.change(0, 0)
    assert not arriving.change(1, 1)
    assert arriving.change(-1, 0)
    assert arriving.refused == 1
