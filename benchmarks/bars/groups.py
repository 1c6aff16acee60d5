"""Everything that can be measured: each group starts its own servers, and is measured by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.bars import against_grpc, footprint, growth, hooks, transport
from benchmarks.bars.bar import Bar, BarOutcome
from benchmarks.rounds import Pace


class Group(NamedTuple):
    """Bars that are measured together."""

    bars: tuple[Bar, ...]
    measure: Callable[[Pace, Path], list[BarOutcome]]
    """Measures in a folder of its own, and returns the outcomes of all its bars."""


GROUPS: Final = (
    Group(against_grpc.BARS, against_grpc.measure),
    Group((hooks.CPU_HOOK,), hooks.measure_cpu_hook),
    Group((hooks.WAITING,), hooks.measure_waiting),
    Group((hooks.WAITING_ASYNC,), hooks.measure_waiting_async),
    Group((hooks.TRACEPARENT,), hooks.measure_traceparent),
    Group((hooks.CHAINED, hooks.CHAINED_ALONE), hooks.measure_chain),
    Group((transport.RING,), transport.measure),
    Group((growth.BY_BODY,), growth.measure_body_growth),
    Group((growth.BY_BUNDLES,), growth.measure_bundles),
    Group((growth.BY_HOOKS,), growth.measure_hooks),
    Group((growth.BY_CONNECTIONS,), growth.measure_connections),
    Group((growth.BY_IDLE,), growth.measure_idle_connections),
    Group((growth.BY_IN_FLIGHT,), growth.measure_in_flight),
    Group((growth.BY_WORKERS,), growth.measure_workers),
    Group((footprint.START_UP,), footprint.measure_start_up),
    Group((footprint.IDLE_MEMORY,), footprint.measure_memory),
)
NAMES: Final = tuple(bar.name for group in GROUPS for bar in group.bars)
