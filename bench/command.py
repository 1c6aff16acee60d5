"""The click command `tykpy bench`: parses, and calls one function. Everything else is imported when it runs."""

import importlib.util
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from tykpy.broker.config import AUTO, MAX_THREADS
from tykpy.broker.refused_sizes import MAX_BODY
from tykpy.broker.units import SIZE_FORMS, parse_size, parse_whole
from tykpy.commands import parameters
from tykpy.commands.connecting import runtime_dir_option, tls_options
from tykpy.commands.errors import CommandError
from tykpy.commands.terminal import no_traceback

F = TypeVar("F", bound=Callable[..., Any])
EXTRA: Final = ("psutil", "rich")
"""Packages of the extra `tykpy[bench]`."""
SCENARIOS: Final = ("header", "jwt", "json", "cpu", "wait", "wait-async", "chain", "body", "session", "all")
MAX_WORKERS: Final = 512
MAX_STREAMS: Final = 20_000
MAX_RATE: Final = 1_000_000.0
MAX_SECONDS: Final = 3600.0


def _list(
    number: Callable[[str], float], low: float, high: float, forms: str = "a number"
) -> Callable[[str | tuple[float, ...]], tuple[float, ...]]:
    """Return the type of numbers with commas between them, all within bounds."""

    def parse(value: str | tuple[float, ...]) -> tuple[float, ...]:
        if isinstance(value, tuple):  # a default
            return value
        try:
            found = dict.fromkeys(number(part.strip()) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r}: give {forms}; several with commas between them") from None
        if wrong := [one for one in found if not low <= one <= high]:
            raise click.BadParameter(f"{wrong[0]:g}: must be between {low:g} and {high:g}")
        return tuple(found)

    return parse


def _threads(text: str) -> int:
    """Return 0 for auto."""
    return 0 if text == AUTO else max(parse_whole(text), 0) or -1


def _counts(name: str, high: int, text: str) -> Callable[[F], F]:
    return click.option(name, type=_list(parse_whole, 1, high), metavar="N,N,...", default=(), help=text)


_file = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Load-test a broker with real dispatches.")
@click.option("--scenario", "names", type=click.Choice(SCENARIOS), multiple=True,
              help="A built-in scenario; repeatable.  [default: header]")  # fmt: skip
@click.option("--bundle", type=click.Path(path_type=Path), help="Your own bundle: a folder, a ZIP or a .py file.")
@click.option("--hook", metavar="NAME", help="Your own hook, in --bundle.")
@click.option("--type", "hook_type", default="Pre", show_default=True, help="The type of your hook.",
              type=click.Choice(["Pre", "CustomKeyCheck", "PostKeyAuth", "Post", "Response"]))  # fmt: skip
@click.option("--object", "object_file", type=_file, help="JSON file with the whole Object to send.")
@click.option("--replay", type=_file, metavar="FILE",
              help="Send --bundle the calls of this recording of tykpy record: those of --hook, or all.")  # fmt: skip
@click.option("--recorded", metavar="NAME",
              help="The recorded bundle to replace.  [default: the one of the same name, or the only one]")  # fmt: skip
@_counts("--workers", MAX_WORKERS, "Worker counts.  [default: 1, 2, 4, ... up to the CPUs]")
@click.option("--threads", type=_list(_threads, 0, MAX_THREADS), metavar="N,N,...", default=(),
              help="Threads per worker, or auto.  [default: auto]")  # fmt: skip
@_counts("--streams", MAX_STREAMS, "Calls at once.  [default: the scenario's: 8 to 256]")
@click.option("--rate", "rates", type=_list(float, 0.1, MAX_RATE), metavar="R,R,...", default=(),
              help="Calls per second, sent on time even if the broker is slow; instead of --streams.")  # fmt: skip
@click.option("--body-size", "body_sizes", type=_list(parse_size, 1, MAX_BODY, SIZE_FORMS), metavar="SIZE,...",
              default=(), help="Size of the request's body, e.g. 1KiB,1MiB.  [default: the scenario's]")  # fmt: skip
@click.option("--seconds", type=parameters.time_between(0.1, MAX_SECONDS), metavar=parameters.TIME,
              default="2s", show_default=True, help="Measured part of one repetition.")  # fmt: skip
@click.option("--warm-up", type=parameters.time_between(0, MAX_SECONDS), metavar=parameters.TIME,
              default="500ms", show_default=True, help="Load before the measured part.")  # fmt: skip
@click.option(
    "--repeat", type=parameters.WholeBetween(1, 100), default=3, show_default=True, help="Repetitions of each case."
)
@click.option("--connections", type=parameters.WholeBetween(1, 64), default=1, show_default=True,
              help="Load generators, each a process with a connection; a gateway has one.")  # fmt: skip
@click.option("--tracing", is_flag=True, help="Send a new traceparent with every call, as a gateway does that traces.")
@click.option("--connect", metavar="ADDRESS", help="Drive this running broker instead of starting one; needs --bundle.")
@tls_options
@runtime_dir_option
@click.option("--json", "json_file", type=_file, help="Write all figures into FILE.")
@click.option("--html", "html_file", type=_file, help="Write a report with plots into FILE.")
@click.option("--compare", "compare_file", type=_file, help="Say what changed since the --json FILE of an earlier run.")
def bench(**options: Any) -> None:
    """Load-test a broker with real dispatches: throughput, latency, CPU and memory by number of workers.

    Without options: a hook that adds a header, by number of workers. Your own hook:
    tykpy bench --bundle my-bundle --hook MyHook --type Post
    """

    def stop(_number: int, _frame: object) -> None:
        sys.exit(128 + signal.SIGTERM)  # runs every `finally`, so brokers and load generators are ended

    with no_traceback():
        for package in EXTRA:
            if importlib.util.find_spec(package) is None:
                raise CommandError(f"tykpy bench needs the {package} package: pip install 'tykpy[bench]'")
        from tykpy.bench.program import run

        signal.signal(signal.SIGTERM, stop)
        run(options)
