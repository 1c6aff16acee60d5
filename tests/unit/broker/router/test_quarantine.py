"""Which hooks and frames are blamed for deaths of workers, and how long they are refused."""

import msgpack
import pytest

from tests.support.peers.dispatches import RecordedDispatch, object_bytes
from tyk.proto.coprocess_object_pb2 import Event
from tykpy.broker.errors import DispatchError
from tykpy.broker.router.deaths import (
    FRAME_MEMORY,
    HOOK_KILLS,
    HOOK_WINDOW,
    LONGEST_COOLDOWN,
    MAX_FRAMES,
    MAX_HOOKS,
    UNKNOWN_SHARE,
    BlamedHook,
    Cause,
    Quarantine,
)
from tykpy.ipc.frame import Kind, Status

COOLDOWN = 10.0
BUNDLE = "c" * 32


class Bench:
    """A quarantine whose clock the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.quarantine = Quarantine(COOLDOWN, clock=lambda: self.now)

    def dispatch(self, hook: str = "hook", frame: int = 0) -> RecordedDispatch:
        """Return a dispatch; `frame` makes its bytes differ from others of the same hook."""
        return RecordedDispatch(object_bytes(hook, bundle_hash=BUNDLE) + b"\x7a\x01" + bytes([frame]))

    def kill(self, *dispatches: RecordedDispatch, cause: Cause = Cause.CRASH) -> bool:
        """Let a worker die while it runs these."""
        return self.quarantine.blame(dispatches, cause)

    def kill_with_hook(self, times: int, cause: Cause = Cause.CRASH) -> None:
        """Let a hook kill workers, each with another frame."""
        for frame in range(times):
            self.kill(self.dispatch(frame=frame), cause=cause)

    def refusal(self, dispatch: RecordedDispatch) -> DispatchError | None:
        """Return the error that a dispatch would get; None: it may run."""
        if not self.quarantine.active:
            return None
        try:
            self.quarantine.check(dispatch)
        except DispatchError as error:
            return error
        return None

    def try_it(self) -> RecordedDispatch:
        """Return the dispatch that is let through after the cool-down, as given to a worker."""
        probe = self.dispatch(frame=99)
        assert self.refusal(probe) is None
        probe.seq = 7
        return probe


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_empty_quarantine_is_inactive(bench: Bench) -> None:
    assert bench.quarantine.active is False
    bench.kill(bench.dispatch())
    assert bench.quarantine.active is False


def test_a_frame_that_killed_two_workers_is_refused(bench: Bench) -> None:
    assert not bench.kill(bench.dispatch())
    assert bench.kill(bench.dispatch())
    error = bench.refusal(bench.dispatch())
    assert error is not None
    assert error.status is Status.HOOK_FAILED
    assert "quarantined" in error.message
    assert "hook" in error.message
    assert bench.refusal(bench.dispatch(frame=1)) is None


def test_a_frame_of_another_kind_is_another_frame(bench: Bench) -> None:
    for _ in range(2):
        bench.kill(bench.dispatch())
    other = RecordedDispatch(bench.dispatch().encoded, kind=Kind.EVENT)
    assert bench.refusal(other) is None


def test_a_quarantine_ends_by_itself(bench: Bench) -> None:
    for _ in range(2):
        bench.kill(bench.dispatch())
    bench.now += FRAME_MEMORY - 1
    assert bench.refusal(bench.dispatch()) is not None
    bench.now += 1
    assert bench.refusal(bench.dispatch()) is None
    assert bench.quarantine.active is False


def test_two_kills_far_apart_are_no_pattern(bench: Bench) -> None:
    bench.kill(bench.dispatch())
    bench.now += FRAME_MEMORY
    assert not bench.kill(bench.dispatch())


def test_dispatches_that_ran_together_share_the_blame(bench: Bench) -> None:
    for frame in (1, 2):
        assert not bench.kill(bench.dispatch(), bench.dispatch("other", frame))
    assert bench.kill(bench.dispatch())
    assert bench.refusal(bench.dispatch()) is not None
    assert bench.refusal(bench.dispatch("other", 1)) is None


def test_a_kill_from_outside_is_no_hooks_fault(bench: Bench) -> None:
    for _ in range(10):
        assert not bench.kill(bench.dispatch(), cause=Cause.OUTSIDE)
    assert bench.refusal(bench.dispatch()) is None


def test_only_many_ends_of_unknown_cause_open_a_hook(bench: Bench) -> None:
    for number in range(round(HOOK_KILLS / UNKNOWN_SHARE)):
        assert bench.refusal(bench.dispatch()) is None, number
        bench.kill(bench.dispatch(), cause=Cause.UNKNOWN)
    assert bench.refusal(bench.dispatch()) is not None
    assert bench.quarantine.describe()["frames"] == []


def test_the_number_of_frames_that_are_remembered_is_limited(bench: Bench) -> None:
    for _ in range(2):
        bench.kill(bench.dispatch("first"))
    for number in range(MAX_FRAMES):
        bench.kill(bench.dispatch(f"hook{number}"))
    assert bench.quarantine.describe()["frames"] == []


def test_a_hook_that_killed_three_workers_is_refused(bench: Bench) -> None:
    bench.kill_with_hook(HOOK_KILLS - 1)
    assert bench.refusal(bench.dispatch(frame=50)) is None
    assert bench.kill(bench.dispatch(frame=51))
    error = bench.refusal(bench.dispatch(frame=50))
    assert error is not None
    assert error.status is Status.UNAVAILABLE
    assert "hook hook is not run" in error.message
    assert bench.refusal(bench.dispatch("other")) is None


def test_three_kills_in_more_than_30_seconds_do_not_open_a_hook(bench: Bench) -> None:
    for frame in range(10):
        bench.kill(bench.dispatch(frame=frame))
        bench.now += HOOK_WINDOW / 2
    assert bench.quarantine.active is False


def test_a_hang_counts_against_the_hook_but_not_the_frame(bench: Bench) -> None:
    for _ in range(HOOK_KILLS):
        bench.kill(bench.dispatch(), cause=Cause.HANG)
    described = bench.quarantine.describe()
    assert (len(described["frames"]), len(described["hooks"])) == (0, 1)


def test_after_the_cool_down_one_dispatch_tries_the_hook(bench: Bench) -> None:
    bench.kill_with_hook(HOOK_KILLS)
    bench.now += COOLDOWN
    probe = bench.try_it()
    assert bench.refusal(probe) is None
    error = bench.refusal(bench.dispatch(frame=98))
    assert error is not None
    assert "being tried" in error.message
    assert bench.quarantine.describe()["hooks"][0]["state"] == "half open"


def test_a_hook_that_came_back_is_run_as_before(bench: Bench) -> None:
    bench.kill_with_hook(HOOK_KILLS)
    bench.now += COOLDOWN
    bench.try_it().completed = True
    assert bench.quarantine.why_not_run([BUNDLE], "hook") is None
    assert bench.refusal(bench.dispatch(frame=98)) is None
    assert bench.quarantine.active is False


def test_a_hook_that_kills_again_is_left_alone_for_twice_as_long(bench: Bench) -> None:
    bench.kill_with_hook(HOOK_KILLS)
    bench.now += COOLDOWN
    probe = bench.try_it()
    bench.kill(probe)
    probe.completed = True
    bench.now += 2 * COOLDOWN - 1
    assert bench.refusal(bench.dispatch(frame=98)) is not None
    bench.now += 1
    assert bench.refusal(bench.dispatch(frame=98)) is None


def test_a_hook_is_never_left_alone_forever(bench: Bench) -> None:
    bench.kill_with_hook(50)
    bench.now += LONGEST_COOLDOWN
    bench.try_it()


def test_a_trial_that_reached_no_worker_is_repeated(bench: Bench) -> None:
    bench.kill_with_hook(HOOK_KILLS)
    bench.now += COOLDOWN
    first = bench.dispatch(frame=99)
    assert bench.refusal(first) is None
    first.completed = True
    assert bench.refusal(bench.dispatch(frame=98)) is None
    assert bench.refusal(bench.dispatch(frame=97)) is not None


def test_the_number_of_hooks_that_are_remembered_is_limited(bench: Bench) -> None:
    for number in range(MAX_HOOKS + 10):
        for frame in range(HOOK_KILLS):
            bench.kill(bench.dispatch(f"hook{number}", frame))
    assert len(bench.quarantine.describe()["hooks"]) == MAX_HOOKS


def test_new_code_clears_the_quarantine(bench: Bench) -> None:
    bench.kill_with_hook(HOOK_KILLS)
    for _ in range(2):
        bench.kill(bench.dispatch())
    bench.quarantine.clear()
    assert bench.quarantine.active is False
    assert bench.refusal(bench.dispatch()) is None
    assert bench.quarantine.describe() == {"frames": [], "hooks": []}


def test_refused_hooks_and_frames_are_described(bench: Bench) -> None:
    bench.kill_with_hook(HOOK_KILLS)
    bench.kill(bench.dispatch())
    described = bench.quarantine.describe()
    assert described["hooks"] == [
        {"bundle_hash": BUNDLE, "bundle": "", "hook": "hook", "state": "open", "left_s": 2 * COOLDOWN}
    ]
    (frame,) = described["frames"]
    assert (frame["bundle_hash"], frame["hook"], frame["left_s"]) == (BUNDLE, "hook", FRAME_MEMORY)
    assert "killed 3 workers" in (bench.quarantine.why_not_run(["d" * 32, BUNDLE], "hook") or "")
    assert bench.quarantine.why_not_run(["d" * 32], "hook") is None
    assert bench.quarantine.why_not_run([BUNDLE], "other") is None


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (Kind.OBJECT, object_bytes("mine", bundle_hash=BUNDLE), BlamedHook(BUNDLE, "mine")),
        (Kind.OBJECT_MAP, msgpack.packb({"hook_name": "mine", "spec": {"bundle_hash": "b"}}), BlamedHook("b", "mine")),
        (Kind.EVENT, Event(payload='{"handler_name": "on_it"}').SerializeToString(), BlamedHook("", "on_it")),
        (
            Kind.EVENT,
            b"\x10\x01" + Event(payload='{"handler_name": "on_it"}').SerializeToString(),
            BlamedHook("", "on_it"),
        ),
        (Kind.EVENT_MAP, msgpack.packb({"payload": '{"handler_name": "on_it"}'}), BlamedHook("", "on_it")),
        (Kind.OBJECT, b"\xff\xff", BlamedHook("", "")),
        (Kind.EVENT, b"\xff\xff", BlamedHook("", "")),
        (Kind.EVENT, Event(payload="nonsense").SerializeToString(), BlamedHook("", "")),
        (Kind.EVENT, Event(payload="[]").SerializeToString(), BlamedHook("", "")),
        (Kind.EVENT_MAP, b"\xc1", BlamedHook("", "")),
        (Kind.EVENT_MAP, msgpack.packb([]), BlamedHook("", "")),
        (
            Kind.EVENT_MAP,
            msgpack.packb({"payload": '{"a": [[]], "handler_name": "on_it"}', "x": [1]}),
            BlamedHook("", "on_it"),
        ),
        (Kind.EVENT_MAP, b"\x81\xa7payload" + b"\x91" * 100_000, BlamedHook("", "")),
    ],
)
def test_the_blamed_hook_is_read_from_the_bytes(kind: Kind, body: bytes, expected: BlamedHook) -> None:
    assert BlamedHook.of(RecordedDispatch(body, kind=kind)) == expected
