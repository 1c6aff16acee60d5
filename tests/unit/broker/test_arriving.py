"""The limit on bytes of unfinished requests, and the shares of it."""

from tykpy.broker.arriving import Arriving, Share


def test_more_than_the_limit_is_refused() -> None:
    arriving = Arriving(10)
    one, other = Share(arriving), Share(arriving)
    one.resize(6)
    other.resize(4)
    assert arriving.admits(one)
    assert arriving.admits(other)
    other.resize(5)
    assert not arriving.admits(other)
    assert (arriving.bytes, arriving.refused) == (11, 1)


def test_a_share_that_is_alone_may_be_larger() -> None:
    arriving = Arriving(10)
    one, other = Share(arriving), Share(arriving)
    one.resize(11)
    assert arriving.admits(one)
    other.resize(1)
    assert not arriving.admits(other)


def test_a_share_can_be_released_again_and_again() -> None:
    arriving = Arriving()
    requests = [Share(arriving) for _ in range(2)]
    for request in requests:
        request.resize(7)
    for _ in range(3):
        requests[0].release()
    assert arriving.bytes == 7
    requests[1].release()
    assert arriving.bytes == 0
