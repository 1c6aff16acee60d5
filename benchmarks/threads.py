"""`--threads auto` against each number of threads: `python -m benchmarks.threads [--rounds N] [--seconds S]`.

All brokers run at the same time and are driven in turn; figures are medians of the rounds. Calls that fail are counted.
"""

import argparse
import contextlib
import statistics
from collections.abc import Sequence
from typing import Final

from benchmarks.bars.driving import DRAIN_SECONDS, WARM_UP_SECONDS
from benchmarks.output import say
from tykpy.bench import runs
from tykpy.bench.load import Order
from tykpy.bench.results import Sample
from tykpy.bench.scenarios import BUILT_IN
from tykpy.bench.serving import OwnBroker

AUTO: Final = 0
SETTINGS: Final = (AUTO, 1, 2, 4, 8, 16, 32)
WORKERS: Final = 2
STREAMS: Final = 64
LEARNING_SECONDS: Final = 1.0
"""Of load before the first round."""
PADDING: Final = 32
"""Bytes that a header takes at least."""
LOADS: Final = {
    "20 ms waiting": ("wait",),
    "2 ms CPU": ("cpu",),
    "header edit": ("header",),
    "all three in turn": ("wait", "cpu", "header"),
}
"""What is called, by the scenarios of `tykpy bench`."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one measurement")
    arguments = parser.parse_args()
    files = sorted({file for names in LOADS.values() for name in names for file in BUILT_IN[name].files})
    print("| hook | auto | best number | auto : best | " + " | ".join(map(str, SETTINGS[1:])) + " |")
    print("| --- " * (len(SETTINGS) + 3) + "|")
    with contextlib.ExitStack() as stack:
        brokers = {number: stack.enter_context(OwnBroker(files, WORKERS, number, STREAMS)) for number in SETTINGS}
        for load, names in LOADS.items():
            say(f"measuring {load}")
            print(_row(load, _measure(brokers, names, arguments.rounds, arguments.seconds)), flush=True)


def _measure(
    brokers: dict[int, OwnBroker], names: Sequence[str], rounds: int, seconds: float
) -> dict[int, list[Sample]]:
    for broker in brokers.values():
        _drive(broker, names, LEARNING_SECONDS)
    samples: dict[int, list[Sample]] = {number: [] for number in brokers}
    for turn in range(rounds):
        for number in sorted(brokers, reverse=bool(turn % 2)):
            samples[number].append(_drive(brokers[number], names, seconds))
    return samples


def _drive(broker: OwnBroker, names: Sequence[str], seconds: float) -> Sample:
    order = Order(
        broker.address, _messages(names), STREAMS, 0.0, WARM_UP_SECONDS, seconds,
        tail=0.05, drain=DRAIN_SECONDS, tracing=False,
    )  # fmt: skip
    return runs.measure(order, 1, broker, lambda progress: None)


def _messages(names: Sequence[str]) -> list[bytes]:
    """Requests of the same length, as the load generator needs them."""
    objects = [BUILT_IN[name].build(None) for name in names]
    length = PADDING + max(one.ByteSize() for one in objects)
    for one in objects:
        while one.ByteSize() < length:
            one.request.headers["X-Padding"] += "x"
    return [one.SerializeToString(deterministic=True) for one in objects]


def _row(load: str, samples: dict[int, list[Sample]]) -> str:
    rates = {number: statistics.median(sample.rate for sample in found) for number, found in samples.items()}
    # One that answers calls with errors is not the best, however fast it does.
    errors = {number: sum(sample.failed for sample in found) for number, found in samples.items()}
    best = max((number for number in rates if number and not errors[number]), key=rates.__getitem__)
    cells = [
        f"{rate:,.0f}" + (f" ({errors[number]:,} errors)" if errors[number] else "") for number, rate in rates.items()
    ]
    return f"| {load} | {cells[0]} | {best} | {rates[AUTO] / rates[best]:.2f} | {' | '.join(cells[1:])} |"


if __name__ == "__main__":
    main()
