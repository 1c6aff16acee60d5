"""When calls are made, and from when their latency counts; on recorded times, without a clock."""

from tykpy.bench.load import Schedule, Window

MS = 1_000_000
SECOND = 1_000 * MS


class OneByOne:
    """A server on paper: answers one call after the other, each after `service_ns`, and stalls once."""

    def __init__(self, service_ns: int, stall_at: int, stall_ns: int) -> None:
        self._service = service_ns
        self._stall_at = stall_at
        self._stall = stall_ns
        self._free_at = 0

    def answer(self, sent: int) -> int:
        """When the call that is sent now is answered."""
        begin = max(sent, self._free_at)
        stall = self._stall if self._free_at <= self._stall_at <= begin + self._service else 0
        self._free_at = begin + self._service + stall
        return self._free_at


def drive(schedule: Schedule, server: OneByOne, streams: int, end: int) -> Window:
    """Play a run: the clock jumps to whatever comes next."""
    window = Window(0, end)
    under_way: list[tuple[int, int]] = []
    now = 0
    while now < end or under_way:
        if now < end:
            under_way += [(server.answer(now), started) for started in schedule.take(now, streams - len(under_way))]
        window.ended([started for answered, started in under_way if answered <= now], now)
        under_way = [call for call in under_way if call[0] > now]
        moments = [answered for answered, _ in under_way]
        due = schedule.next_due()
        if due is not None and len(under_way) < streams and now < end:
            moments.append(max(due, now + 1))
        now = min(moments, default=now + 1)
    return window


def test_an_open_loop_sees_a_stall_that_a_closed_loop_hides() -> None:
    # 1,000 calls a second for 10 s, each takes 0.5 ms, and once the server stalls for 1 s.
    stall = {"service_ns": MS // 2, "stall_at": 5 * SECOND, "stall_ns": SECOND}
    opened = drive(Schedule(1000, 0), OneByOne(**stall), streams=10, end=10 * SECOND)
    closed = drive(Schedule(0, 0), OneByOne(**stall), streams=1, end=10 * SECOND)
    corrected, hidden = opened.latencies_ns(), closed.latencies_ns()
    assert hidden.percentile(99) < MS, "one call of 18,000 was slow: the 99th percentile knows nothing of it"
    assert max(hidden) >= SECOND
    # About 1,000 callers came during the second, and as many while the rest was worked off.
    assert 0.7 * SECOND < corrected.percentile(99) < SECOND + MS
    assert corrected.percentile(50) < MS
    assert corrected.total() == 10_000


def test_a_delayed_call_counts_from_when_it_was_due() -> None:
    schedule = Schedule(1000, start=0)
    assert schedule.take(0, room=1) == [0]
    assert schedule.take(3 * MS, room=0) == []
    assert schedule.take(5 * MS, room=2) == [MS, 2 * MS]
    assert schedule.late(5 * MS) == 2
    assert schedule.late(5 * MS + 1) == 3
    assert schedule.take(5 * MS, room=100) == [3 * MS, 4 * MS, 5 * MS]
    assert schedule.late(6 * MS) == 0
    assert schedule.next_due() == 6 * MS


def test_an_open_loop_does_not_start_early() -> None:
    schedule = Schedule(10, start=SECOND)
    assert schedule.take(SECOND - 1, 100) == []
    assert schedule.next_due() == SECOND
    assert schedule.take(SECOND, 100) == [SECOND]


def test_a_closed_loop_fills_the_room() -> None:
    schedule = Schedule(0, 0)
    assert schedule.take(7, room=3) == [7, 7, 7]
    assert schedule.next_due() is None
    assert schedule.late(9 * SECOND) == 0


def test_throughput_counts_ends_and_latency_counts_starts() -> None:
    window = Window(100, 200)
    window.ended([50], 150)  # due before it, ended in it
    window.ended([120, 130], 180)
    window.ended([190], 250)  # due in it, ended after it
    window.ended([210], 260)
    assert window.answered == 3
    assert window.latencies_ns() == {50: 1, 60: 2}
