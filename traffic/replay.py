"""Run recorded calls through a bundle, and compare its answers with recorded ones or another bundle's."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from tyk.proto.coprocess_object_pb2 import Object
from tykpy.telemetry.records import counted
from tykpy.traffic.bundle_run import BundleRun, CallResult
from tykpy.traffic.differences import Differences
from tykpy.traffic.errors import ReplayError
from tykpy.traffic.recording import CallRecord, Recording

PERCENTILES: Final = (50, 90, 99)
_NOT_THE_HOOKS: Final = ("CANCELLED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
"""Statuses that depend on load and callers more than on the hook."""


@dataclass(slots=True)
class Replay:
    """What came of a replay."""

    differences: Differences
    replayed: int = 0
    skipped: int = 0
    """Calls whose recorded outcome says nothing about the hook, so that there is nothing to compare with."""
    missing: int = 0
    """Calls that the recording lacks: they were dropped while it was made."""
    cut_off: bool = False
    """Whether the end of the recording is missing."""
    times: dict[str, list[int]] = field(default_factory=dict)
    """How long hooks ran, in us, by whose they are: `recorded` or a bundle's path."""


def replay(
    recording: Recording,
    new: BundleRun,
    old: BundleRun | None,
    differences: Differences,
    bundle: str,
    keep: Callable[[int, CallRecord, CallResult], object] = lambda number, call, result: None,
) -> Replay:
    """Replay the recorded calls of `bundle`; `keep` gets each with what `new` answered."""
    done = Replay(differences)
    recorded: list[int] = []
    with ExitStack() as stack:
        for run in (new, old):
            if run is not None:
                stack.enter_context(run)
        for number, call in _of_bundle(recording.calls(), bundle):
            if call.hook_us is None or not call.request or (old is None and call.code in _NOT_THE_HOOKS):
                done.skipped += 1
                continue
            before = _recorded(call) if old is None else old.call(call)
            after = new.call(call)
            differences.add(number, call.hook, before, after)
            recorded.append(call.hook_us)
            keep(number, call, after)
            done.replayed += 1
        done.times["recorded"] = recorded
        for run in (old, new):
            if run is not None:
                run.fetch_times()
                done.times[str(run.bundle)] = [time for time in run.hook_us if time is not None]
    done.missing = recording.dropped
    done.cut_off = recording.end is None
    return done


def recorded_bundle(calls: Iterable[CallRecord], new: str, wanted: str | None) -> str:
    """Return the name of the recorded bundle that bundle `new` replaces.

    That is the one asked for, the one of the same name, or the only one.

    Raises ReplayError if that is unclear.
    """
    counts = Counter(call.bundle for call in calls if call.bundle)
    listed = (
        ", ".join(f"{name} ({counted(count, 'call')})" for name, count in counts.most_common()) or "no bundle at all"
    )
    same = [name for name in counts if _stem(name) == _stem(wanted or new)]
    if same:
        return same[0]
    if wanted is not None:
        raise ReplayError(f"the recording has no calls of bundle {wanted}; it has {listed}")
    if len(counts) == 1:
        return next(iter(counts))
    raise ReplayError(f"which recorded bundle does {new} replace? Name it with --recorded; the recording has {listed}")


def percentile(times: list[int], share: int) -> float:
    """Return a percentile in us (nearest rank)."""
    ordered = sorted(times)
    return float(ordered[max(0, -(-len(ordered) * share // 100) - 1)])


def _of_bundle(calls: Iterable[CallRecord], bundle: str) -> Iterator[tuple[int, CallRecord]]:
    return ((number, call) for number, call in enumerate(calls, 1) if call.bundle == bundle)


def _recorded(call: CallRecord) -> CallResult:
    return CallResult(Object.FromString(call.answer) if call.answer else None, call.code, call.message)


def _stem(name: str) -> str:
    path = PurePath(name)
    return path.stem if path.suffix in (".py", ".zip") else path.name
