"""`python -m benchmarks.flamegraph`: where the time of the broker and of one worker goes, as SVG files in docs.

py-spy looks at both processes while h2load drives the broker. What it writes has the paths of the machine that made
it: they are cut to what is the same everywhere, and rare stacks are left out.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape, unescape

from benchmarks import h2load
from benchmarks.contenders import HookBroker
from benchmarks.objects import expected_answer, framed, request_bytes
from tykpy.bench.errors import BenchError
from tykpy.bench.measure import cpu_ns

EXIT_ERROR: Final = 1
ROOT: Final = Path(__file__).parents[1]
WORKERS: Final = 2
STREAMS: Final = 64
SECONDS: Final = 4
RATE: Final = 200
"""Samples per second: more disturb what they look at, as the process stands still for each."""
RARE_PERCENT: Final = 0.2
"""Of all samples: a stack below it is noise and too narrow to be read."""
WARM_UP_REQUESTS: Final = 20_000
START_SECONDS: Final = 2.0
"""The load outlasts the recordings by it: py-spy looks for the interpreter before it samples."""
TEXT_MARK: Final = ".."
"""What ends a label that is cut off."""

_FRAME: Final = re.compile(
    r"<g><title>(?P<name>[^<]*) \((?P<samples>[\d,]+) samples, (?P<percent>[\d.]+)%\)</title>"
    r"(?P<shape><rect[^>]*/><text[^>]*>)(?P<label>[^<]*)</text></g>"
)
_TITLE: Final = re.compile(r'(<text id="title"[^>]*>)[^<]*')
_PLACE: Final = re.compile(r"(?P<function>.*) \((?P<path>/.*)\)")
_LIBRARY: Final = re.compile(r".*/(?:site-packages|dist-packages|python\d+\.\d+)/(?=.)")
_RIGHTS: Final = (
    "No process of a broker's user may look into it, so py-spy needs the capability CAP_SYS_PTRACE: run this as root, "
    "in a container that has it (docker run --cap-add SYS_PTRACE)"
)
_BACKTRACE: Final = "Stack backtrace:"
"""Where py-spy's own errors stop being for people."""


class ProfiledProcess(NamedTuple):
    """A process to look at."""

    name: str
    title: str
    pid: int


def portable_name(name: str, root: Path = ROOT) -> str:
    """A frame's name with its path from the repository, or from the package's folder, on."""
    place = _PLACE.fullmatch(name)
    if place is None:
        return name
    path = Path(place["path"])
    library = _LIBRARY.sub("", str(path))
    if library != str(path):
        short = library
    elif path.is_relative_to(root):
        short = str(path.relative_to(root))
    else:
        short = path.name
    return f"{place['function']} ({short})"


def portable(svg: str, title: str, root: Path = ROOT) -> str:
    """py-spy's flame graph without rare stacks, and with nothing of the machine that made it."""

    def frame(found: re.Match[str]) -> str:
        if float(found["percent"]) < RARE_PERCENT:
            return ""
        name = escape(portable_name(unescape(found["name"]), root))
        label = found["label"] if name == found["name"] else _cut(name, len(found["label"]))
        counted = f"({found['samples']} samples, {found['percent']}%)"
        return f"<g><title>{name} {counted}</title>{found['shape']}{label}</text></g>"

    titled = _TITLE.sub(lambda found: found[1] + escape(title), svg)
    return _FRAME.sub(frame, titled)


def check_portable(svg: str, folders: tuple[Path, ...]) -> None:
    """Raise BenchError where one of these folders is named."""
    for folder in folders:
        if folder != Path("/") and str(folder) in svg:
            raise BenchError(f"the flame graph still names {folder}, a folder of this machine: it is not written")


def record(seconds: int) -> dict[str, str]:
    """Drive a broker and look at it; gives the SVG of each subject. Raises BenchError."""
    h2load.find()
    find()
    with tempfile.TemporaryDirectory(prefix="tykpy-flame-") as name:
        folder = Path(name)
        body = folder / "request"
        body.write_bytes(framed(request_bytes()))
        answer_size = len(framed(expected_answer().SerializeToString()))
        with HookBroker(folder, WORKERS) as server:
            socket = server.folder / "tyk.sock"
            before = cpu_ns(server.pids())
            rate = h2load.run(socket, body, WARM_UP_REQUESTS, STREAMS, answer_size).rate
            subjects = _subjects(before, cpu_ns(before))
            with ExitStack() as stack:
                started = [(one, stack.enter_context(_spy(one, seconds, folder))) for one in subjects]
                h2load.run(socket, body, int(rate * (seconds + START_SECONDS)), STREAMS, answer_size)
                return {one.name: _recorded(one, spy, folder) for one, spy in started}


def find() -> str:
    """py-spy's path; raises BenchError that says how to install it."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise BenchError("py-spy is not installed: pip install -e '.[benchmarks]'")
    return found


def _cut(text: str, length: int) -> str:
    plain = unescape(text)
    if len(plain) <= length:
        return text
    return escape(plain[: length - len(TEXT_MARK)] + TEXT_MARK) if length > len(TEXT_MARK) else ""


def _subjects(before: dict[int, int], after: dict[int, int]) -> list[ProfiledProcess]:
    """The broker, and the worker that has done the most."""
    front, *workers = before
    busiest = max(workers, key=lambda pid: after[pid] - before[pid])
    setting = f"{WORKERS} workers, {STREAMS} streams"
    return [
        ProfiledProcess("broker", f"tykpy broker, {setting}", front),
        ProfiledProcess("worker", f"tykpy worker, {setting}", busiest),
    ]


def _spy(subject: ProfiledProcess, seconds: int, folder: Path) -> subprocess.Popen[str]:
    # Not --nonblocking: of a process that runs on meanwhile, parts of two stacks become one.
    command = [
        find(), "record", "--format", "flamegraph", "--nolineno", "--rate", str(RATE), "--duration", str(seconds),
        "--pid", str(subject.pid), "--output", str(folder / f"{subject.name}.svg"),
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _recorded(subject: ProfiledProcess, spy: subprocess.Popen[str], folder: Path) -> str:
    output, _ = spy.communicate()
    written = folder / f"{subject.name}.svg"
    if spy.returncode != 0 or not written.exists():
        said = output.partition(_BACKTRACE)[0].strip()
        raise BenchError(f"py-spy cannot look into the {subject.name}. {_RIGHTS}. It says:\n{said}")
    svg = portable(written.read_text(), subject.title)
    check_portable(svg, (ROOT, Path(tempfile.gettempdir()), Path.home()))
    return svg


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flamegraph", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"length of the recordings (default: {SECONDS})")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="where the SVG files go (default: docs)")
    arguments = parser.parse_args()
    try:
        recorded = record(arguments.seconds)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    for name, svg in recorded.items():
        path = arguments.folder / f"flame-{name}.svg"
        path.write_text(svg)
        print(f"{path}: {len(svg) / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
