"""`python -m benchmarks.overhead`: what metrics, the access log, tracing and `tykpy record` cost.

Brokers that differ only in these options run at the same time and are measured in every round; the table shows medians,
and CPU against the broker in which all of it is off. They are started several times: a process may need some per cent
more or less than another one all its life. Spans go to a collector that keeps nothing. `tykpy record` records
the broker in which all of it is off, and runs only while that is measured with it.
"""

import socket
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import h2load
from benchmarks.driving import LoadCase, h2load_case
from benchmarks.programs import Program
from benchmarks.reports import Findings, Table, figures_dict, numbers, pace_of, parser, present, say
from benchmarks.rounds import Measurable, Pace, Reading, Readings, in_rounds, ratios
from tykpy.bench.errors import ServerError
from tykpy.bench.scenarios import BUILT_IN, Scenario
from tykpy.bench.serving import OwnBroker

USUAL: Final = Pace(rounds=3, seconds=1.0)
STARTS: Final = 4
WORKERS: Final = 2
SCENARIOS: Final = ("header", "chain")
"""Of `tykpy bench`: a hook that adds a header, and a chain of five."""
OFF: Final = "off"
PATIENT: Final = ("--queue-wait", "0")
"""No call is refused, however busy the machine is."""
SCRAPE_SECONDS: Final = 2.0
COLUMNS: Final = (
    "load", "streams", "setting", "requests/s", "broker CPU us", "workers CPU us", "CPU us", "CPU : off", "req/s : off",
)  # fmt: skip


class Setting(NamedTuple):
    """What is on in a broker."""

    name: str
    is_off: bool = False
    sampled: str = ""
    """The ratio of dispatches that are traced; empty: none, and tracing is off."""

    def options(self, metrics: Path) -> list[str]:
        """Return the options of the broker, which shows metrics on this socket."""
        if self.is_off:
            return [*PATIENT, "--slow-hook", "0", "--tracing", "off"]
        tracing = "on" if self.sampled else "off"
        return [*PATIENT, "--metrics", f"unix://{metrics}", "--access-log", "errors", "--tracing", tracing]

    def environment(self, collector: str) -> dict[str, str]:
        """Return the variables of the broker, which exports spans to this address."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": self.sampled or "0",
        }


SETTINGS: Final = (
    Setting(OFF, is_off=True),
    Setting("metrics, access log"),
    Setting("and 1 % traced", sampled="0.01"),
    Setting("and all traced", sampled="1"),
)
RECORDED: Final[dict[str, tuple[str, ...]]] = {
    "1 % recorded": ("--sample", "1%"),
    "recorded": (),
    "all recorded": ("--rate", "0"),
}
"""Names of settings, and their options of `tykpy record`."""


class Collector(Program):
    """Takes spans; `address` is known once it has started."""

    address = ""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.servers.otlp_sink"]
        super().__init__("the collector", command, folder / "collector.log", self._read_address)

    def _read_address(self) -> None:
        if not self.output.endswith("\n"):
            raise ServerError("the collector does not listen yet")
        self.address = self.output.strip()


class RecordingProgram(Program):
    """`tykpy record` for the broker with this runtime folder."""

    def __init__(self, runtime: Path, chosen: Sequence[str]) -> None:
        self._file = runtime / "recording"
        options = ["-o", str(self._file), "--runtime-dir", str(runtime), *chosen]
        command = [sys.executable, "-m", "tykpy.cli", "record", *options]
        super().__init__("tykpy record", command, runtime / "recorder.log", self._check_started)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._file.unlink(missing_ok=True)

    def _check_started(self) -> None:
        if not self.output:
            raise ServerError("tykpy record does not record yet")


def compare(pace: Pace, streams: Sequence[int], starts: int) -> Findings:
    """Start a broker for each setting, and measure all of them, as often as `starts` says."""
    h2load.find()
    found: dict[str, list[Reading]] = {}
    for start in range(starts):
        say(f"starting brokers, {start + 1} of {starts}")
        for name, readings in _measure(pace, streams).items():
            found.setdefault(name, []).extend(readings)
    return findings(Readings(found), list(found))


def _measure(pace: Pace, streams: Sequence[int]) -> dict[str, list[Reading]]:
    with tempfile.TemporaryDirectory(prefix="tykpy-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        collector = stack.enter_context(Collector(folder))
        scenarios = [BUILT_IN[scenario] for scenario in SCENARIOS]
        files = sorted({file for scenario in scenarios for file in scenario.files})
        sockets = [folder / f"metrics{number}.sock" for number in range(len(SETTINGS))]
        brokers: dict[str, OwnBroker] = {}
        for setting, metrics in zip(SETTINGS, sockets, strict=True):
            environment = setting.environment(collector.address)
            broker = OwnBroker(files, WORKERS, 0, max(streams), setting.options(metrics), environment)
            brokers[setting.name] = stack.enter_context(broker)
        stack.enter_context(_scraped(sockets))
        cases: list[Measurable[Reading]] = []
        for scenario, count in product(scenarios, streams):
            for name, broker in brokers.items():
                cases.append(_case(scenario, count, name, broker, folder, pace.seconds))
            for recorded, chosen in RECORDED.items():
                broker = brokers[OFF]
                case = _case(scenario, count, recorded, broker, folder, pace.seconds)
                case.around = partial(RecordingProgram, broker.folder, chosen)
                cases.append(case)
        return in_rounds(cases, pace.rounds)


def findings(found: Readings, names: Sequence[str]) -> Findings:
    """Make the table; names of cases are `LOAD; STREAMS; SETTING`."""
    cells, rows = [], []
    for name in names:
        load, streams, setting = name.split("; ")
        off = f"{load}; {streams}; {OFF}"
        cpu, rate = (_against(found, name, off, figure) for figure in ("cpu_us", "rate"))
        times = (f"{found.median(name, figure):.1f}" for figure in ("broker_us", "workers_us", "cpu_us"))
        cells.append(
            (load, streams, setting, f"{found.median(name, 'rate'):,.0f}", *times, f"{cpu:.2f}", f"{rate:.2f}")
        )
        row = {"load": load, "streams": streams, "setting": setting, "cpu_ratio": cpu, "rate_ratio": rate}
        rows.append(row | figures_dict(found, name))
    return Findings([Table(COLUMNS, cells)], [f"{WORKERS} workers."], {"rows": rows})


def _against(found: Readings, name: str, off: str, figure: str) -> float:
    return statistics.median(ratios(found.each(name, figure), found.each(off, figure)))


def _case(scenario: Scenario, streams: int, setting: str, broker: OwnBroker, folder: Path, seconds: float) -> LoadCase:
    item = scenario.build(None)
    # What is traced is decided by the broker, and not by the caller.
    item.request.headers.pop("Traceparent", None)
    name = f"{scenario.name}; {streams}; {setting}"
    return h2load_case(name, broker, item, scenario.is_right, folder, streams, seconds)


@contextmanager
def _scraped(sockets: Sequence[Path]) -> Iterator[None]:
    """Read the metrics of each broker from time to time, as Prometheus does."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_SECONDS):
            for path in filter(Path.exists, sockets):
                with suppress(OSError):
                    _read_metrics(path)

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _read_metrics(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SCRAPE_SECONDS)
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while connection.recv(1 << 16):
            pass


def main() -> int:
    """Run the command line; return the exit code."""
    made = parser("benchmarks.overhead", __doc__, USUAL)
    made.add_argument("--streams", type=numbers, default=(64, 1), help="concurrent streams, e.g. 64,1")
    made.add_argument(
        "--starts", type=int, default=STARTS, help=f"how often the brokers are started (default {STARTS})"
    )
    arguments = made.parse_args()
    return present(arguments, lambda: compare(pace_of(arguments, USUAL), arguments.streams, arguments.starts))


if __name__ == "__main__":
    sys.exit(main())
