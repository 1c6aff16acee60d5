"""What limits a case: workers, broker, load generator, machine, or the load that was offered."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from tykpy.bench.results import Case, CaseResult, Usage
from tykpy.telemetry.records import counted

FULL: Final = 0.9
"""Share of one CPU at which a process with one busy thread is fully used."""
FULL_MACHINE: Final = 0.9
"""Share of all CPUs at which the machine is fully used: processes that wait for each other always leave gaps."""
BUSY: Final = 0.5
"""Share of one CPU: if calls wait while broker and workers use less, they do not wait for a CPU."""
MET: Final = 0.98
"""Share of the requested rate that counts as met."""
STARVED: Final = 0.15
"""Share of one CPU that a process gets even on a full machine if it wants one."""
NOISY: Final = 0.1
"""Share of all CPUs: if other processes use more, figures are doubtful."""


class Bottleneck(StrEnum):
    """Possible limits."""

    LOAD = "load generator"
    BROKER = "broker"
    WORKERS = "workers"
    MACHINE = "machine"
    OFFERED = "offered load"
    NONE = "none"
    UNKNOWN = "unknown"


class Limit(NamedTuple):
    """The limit, and how it shows."""

    part: Bottleneck
    reason: str


def limit_of(result: CaseResult) -> Limit:
    """Return what limits a case."""
    usage, case = result.usage, result.case
    if case.rate and (result.median("rate") or 0.0) >= MET * case.rate and not usage.waiting:
        return Limit(Bottleneck.NONE, "the rate was met")
    return _busy_process(usage) or _full_machine(usage) or _waiting(case, usage)


def _busy_process(usage: Usage) -> Limit | None:
    if usage.load / usage.load_processes >= FULL:
        each = usage.load / usage.load_processes
        return Limit(Bottleneck.LOAD, f"each load generator uses {each:.2f} CPUs; try more --connections")
    if usage.broker is not None and usage.broker >= FULL:
        return Limit(Bottleneck.BROKER, f"the broker uses {usage.broker:.2f} CPUs of the one that it can")
    if usage.each_worker >= FULL:
        return Limit(Bottleneck.WORKERS, f"each worker uses {usage.each_worker:.2f} CPUs")
    return None


def _full_machine(usage: Usage) -> Limit | None:
    if usage.machine < FULL_MACHINE * usage.cpus or _waits_for_none(usage):
        return None
    parts = [("load generator", usage.load)]
    if usage.broker is not None:
        parts = [("broker", usage.broker), ("workers", sum(usage.workers or ())), *parts]
    if usage.others > NOISY * usage.cpus:
        parts.append(("other processes" if usage.broker is not None else "all else, perhaps the broker", usage.others))
    told = ", ".join(f"{name} {used:.2f}" for name, used in parts)
    return Limit(Bottleneck.MACHINE, f"all {usage.cpus} CPUs are used: {told}")


def _waits_for_none(usage: Usage) -> bool:
    """Return whether other processes use the CPUs, while calls here wait for something else."""
    return bool(usage.waiting) and max(usage.broker or 0.0, usage.each_worker) < STARVED


def _waiting(case: Case, usage: Usage) -> Limit:
    if usage.broker is None:
        return Limit(Bottleneck.UNKNOWN, "the broker's processes cannot be looked at from here")
    if usage.waiting or _is_crowded(case, usage):
        return _busiest(usage, usage.broker)
    if usage.waiting is None:
        return Limit(Bottleneck.UNKNOWN, "no CPU is used up, and this broker cannot be asked what waits")
    more = "a higher --rate" if case.rate else "more --streams"
    return Limit(Bottleneck.OFFERED, f"nothing waits and no CPU is used up: {more} would show more")


def _is_crowded(case: Case, usage: Usage) -> bool:
    """Return whether calls wait for a busy process where they are not counted: in sockets and in workers' rings."""
    at_work = 1 + usage.load_processes + len(usage.workers or ())
    return max(usage.broker or 0.0, usage.each_worker) >= BUSY and (bool(case.rate) or case.streams > at_work)


def _busiest(usage: Usage, broker: float) -> Limit:
    each = usage.each_worker
    if max(broker, each) < BUSY:
        waiting = f"{usage.waiting:.0f} dispatches wait for one, and not for a CPU"
        advice = "--threads auto, or async def, for such hooks"
        return Limit(Bottleneck.WORKERS, f"{waiting}: {advice}{_disturbed(usage)}")
    part, used = (Bottleneck.BROKER, broker) if broker > each else (Bottleneck.WORKERS, each)
    who = "the broker" if part is Bottleneck.BROKER else "each worker"
    return Limit(part, f"no CPU is used up, and {who} is the busiest, with {used:.2f} CPUs{_disturbed(usage)}")


def _disturbed(usage: Usage) -> str:
    if usage.others <= NOISY * usage.cpus:
        return ""
    return f", while other processes used {usage.others:.2f} of {usage.cpus}"


def failures_text(result: CaseResult) -> str:
    """Say what went wrong; empty if nothing did."""
    if not result.failed:
        return ""
    texts = sorted(result.failures.items(), key=lambda item: -item[1])
    told = "; ".join(f"{count:,} x {text}" for text, count in texts)
    return f"{counted(result.failed, 'call')} failed ({told or 'no answer'})"


def disturbance(results: Iterable[CaseResult]) -> str:
    """Say what makes all figures doubtful; empty on a quiet machine, or if the broker cannot be told from others."""
    usages = [sample.usage for result in results for sample in result.samples if sample.usage.broker is not None]
    worst = max(usages, key=lambda usage: usage.others, default=None)
    if worst is None or worst.others <= NOISY * worst.cpus:
        return ""
    return f"other processes used up to {worst.others:.1f} of {worst.cpus} CPUs meanwhile: repeat on a quiet machine"
