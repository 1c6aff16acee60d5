"""A log that is not read, cannot be written, or is tampered with by plugins and peers affects no call."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.faults.host.test_zygotes import zygote_of
from tests.support.broker import PATIENCE, TYKPY, RunningBroker, running_broker, wait_until
from tests.support.metrics import MeteredBroker
from tykpy.broker.pool.process import signals_blocked
from tykpy.client.grpc import GrpcCallError, GrpcClient
from tykpy.commands.objects import CallDescription, build_object

HOOKS: Final = """
import logging
import os
import sys
import warnings
from gateway import TykGateway as tyk
from tyk.decorators import Hook


def answer(request, session):
    request.add_header("X-Worker", str(os.getpid()))
    return request, session


@Hook
def quiet(request, session, spec):
    return answer(request, session)


@Hook
def loud(request, session, spec):
    for _ in range(4_000):
        print("loud" * 250)
    return answer(request, session)


@Hook
def speaks(request, session, spec):
    tag = request.get_header("Tag")
    print("printed", tag)
    print("warned", tag, file=sys.stderr)
    tyk.log("logged " + tag, "error")
    return answer(request, session)


@Hook
def writes(request, session, spec):
    os.write(1, ("written " + request.get_header("Tag") + "\\n").encode())
    return answer(request, session)


@Hook
def fails(request, session, spec):
    raise type(request.get_header("Tag"), (Exception,), {})("failed " + request.get_header("Tag"))


@Hook
def fails_alike(request, session, spec):
    raise LookupError(f"no such tenant: {request.get_header('Tag')}")
"""
OTHER: Final = """
import io, linecache, logging, logging.config, os, sys, traceback, warnings
from tyk.decorators import Hook

kept = []
logging.config.dictConfig({
    "version": 1,
    "handlers": {"h": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["h"], "level": "INFO"},
})


@Hook
def executes(request, session, spec):
    exec(request.get_header("Code"))
    return request, session
"""
RECORD: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +(\[\d+\] )?[\w.]+: |  \| )")
"""How a line of the log starts."""
FORGED: Final = "2026-01-01 00:00:00,000 ERROR   tykpy.broker: forged"


def call(broker: RunningBroker, hook: str, bundle: str = "mine.py", **headers: str) -> int:
    """Call a hook; return the process that ran it, if the hook tells."""
    answer = broker.call(hook, bundle=bundle, headers=tuple(headers.items()))
    return int(answer.request.set_headers.get("X-Worker", 0))


def redirected(broker: RunningBroker, redirections: str) -> RunningBroker:
    """Start the broker with these shell redirections."""
    broker.prefix = ["bash", "-c", f'exec "$0" "$@" {redirections}']
    return broker


class StalledReader:
    """The read end of a pipe that is the broker's standard error, and that nobody reads."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.text = b""

    def read(self) -> str:
        """Read what is there now, and return everything read so far."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.reader, 65_536):
                self.text += part
        return self.text.decode()

    def close(self) -> None:
        os.close(self.reader)


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[tuple[MeteredBroker, StalledReader]]:
    """Yield a broker whose log is not read and already full."""
    pipe = StalledReader()
    broker = MeteredBroker(tmp_path)
    broker.add_file("mine.py", HOOKS)
    broker.inherits = (pipe.writer,)
    redirected(broker, f">&{pipe.writer} 2>&{pipe.writer}")
    with broker:
        os.close(pipe.writer)
        call(broker, "loud")
        yield broker, pipe
    pipe.close()


def test_a_stalled_reader_stops_nothing(stalled: tuple[MeteredBroker, StalledReader]) -> None:
    """Calls, health, reload, replacement and signals work; lost records are counted, and reported once it reads."""
    broker, pipe = stalled
    broker.wait_for("tykpy_log_dropped_total", 0)
    lost = broker.scrape()("tykpy_log_dropped_total")
    call(broker, "speaks", Tag="stalled")
    with pytest.raises(GrpcCallError, match="no such tenant"):
        call(broker, "fails_alike", Tag="x")
    for pid in (broker.pid, call(broker, "quiet")):
        os.kill(pid, signal.SIGUSR1)
    os.kill(call(broker, "quiet"), signal.SIGUSR2)
    os.kill(call(broker, "quiet"), signal.SIGKILL)
    wait_until(lambda: broker.status()["restarts"] == 1, str)
    assert broker.scrape()("tykpy_log_dropped_total") >= lost, "forgotten with the worker that lost them"
    os.kill(broker.pid, signal.SIGHUP)
    wait_until(lambda: (broker.status()["reload"] or {}).get("ok") is True, str)
    call(broker, "loud")
    wait_until(
        lambda: "records of this log are lost: nobody read them in time" in pipe.read(), lambda: pipe.read()[-9000:]
    )
    call(broker, "speaks", Tag="again")
    wait_until(lambda: "printed again" in pipe.read(), lambda: pipe.read()[-9000:])


def test_a_stalled_reader_does_not_keep_the_broker(stalled: tuple[MeteredBroker, StalledReader]) -> None:
    broker, _ = stalled
    assert broker.stop() == 0


@pytest.mark.parametrize("redirections", ["2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&{pipe}"])
def test_a_log_that_cannot_be_written(tmp_path: Path, redirections: str) -> None:
    broker = RunningBroker(tmp_path)
    broker.add_file("mine.py", HOOKS)
    reader, writer = os.pipe()
    os.close(reader)
    broker.inherits = (writer,)
    with redirected(broker, redirections.format(pipe=writer)):
        os.close(writer)
        call(broker, "loud")
        call(broker, "speaks", Tag="x")
        with pytest.raises(GrpcCallError, match="no such tenant"):
            call(broker, "fails_alike", Tag="x")
        # What is printed reaches no socket or pipe of ours.
        for process in (psutil.Process(broker.pid), *psutil.Process(broker.pid).children(recursive=True)):
            for number in (0, 1, 2):
                assert "socket" not in os.readlink(f"/proc/{process.pid}/fd/{number}")
        assert broker.stop() == 0


def test_the_log_file_is_opened_anew(tmp_path: Path) -> None:
    """By broker and workers, also by later ones, and for what is written to descriptors and by SIGUSR2."""
    path = tmp_path / "tykpy.log"
    broker = RunningBroker(tmp_path, "--log-file", str(path))
    broker.add_file("mine.py", HOOKS)
    with redirected(broker, "2>&-"):
        wait_until(lambda: "1 of 1 workers ready" in path.read_text(), path.read_text)
        assert broker.status()["log"]["file"] == str(path)
        first = call(broker, "speaks", Tag="early")
        path.rename(tmp_path / "old.log")
        os.kill(broker.pid, signal.SIGUSR1)
        wait_until(path.exists, lambda: "a new file")

        def shows_late() -> bool:
            call(broker, "writes", Tag="late")
            return "written late" in path.read_text()

        wait_until(shows_late, path.read_text)
        call(broker, "speaks", Tag="late")
        assert f"[{first}] tykpy.plugin: mine.py/speaks: printed late" in path.read_text()
        os.kill(first, signal.SIGUSR2)
        wait_until(lambda: "most recent call first" in path.read_text(), path.read_text)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: call(broker, "speaks", Tag="next") != first, path.read_text)
        assert "printed next" in path.read_text()
        assert "was ended by SIGKILL" in path.read_text()
        assert broker.stop() == 0
    assert "stopped" in path.read_text()
    assert "printed early" in (tmp_path / "old.log").read_text()
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    broker = RunningBroker(tmp_path, "--log-file", str(folder))
    with broker.unready():
        assert broker.wait() == 2
        assert f"--log-file {folder} cannot be opened: Is a directory" in broker.log


def test_a_log_file_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with RunningBroker(tmp_path, "--log-file", str(tmp_path / "fifo")).unready() as broker:
        assert broker.wait() == 2
        assert "fifo cannot be opened: it is a FIFO that nobody reads" in broker.log


def test_a_lost_folder_keeps_the_old_log_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    broker = RunningBroker(tmp_path, "--log-file", str(folder / "log"))
    with broker:
        assert f"logging to {folder / 'log'}" in broker.log
        folder.rename(tmp_path / "renamed")
        os.kill(broker.pid, signal.SIGUSR1)
        kept = tmp_path / "renamed" / "log"
        wait_until(lambda: "cannot be opened anew, the old one goes on" in kept.read_text(), kept.read_text)


def test_sigusr1_ends_no_process(tmp_path: Path) -> None:
    """Of any kind and at any time, also during the start."""
    broker = RunningBroker(tmp_path)
    broker.add_file("mine.py", HOOKS)
    # Gets the signal when it unblocks it.
    with signals_blocked(), broker.unready():
        os.kill(broker.pid, signal.SIGUSR1)
        wait_until(lambda: zygote_of(broker) is not None, lambda: broker.log)
        zygote = zygote_of(broker)
        assert zygote is not None
        zygote.send_signal(signal.SIGUSR1)
        broker.wait_ready()
        worker = call(broker, "quiet")
        for pid in (broker.pid, zygote.pid, worker) * 10:
            os.kill(pid, signal.SIGUSR1)
        assert call(broker, "quiet") == worker
        assert zygote.is_running()
        assert broker.stop() == 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Yield a broker with a bundle that configures logging at import, and executes the code that it is sent."""
    files = {"mine.py": HOOKS, "other.py": OTHER}
    with running_broker(tmp_path_factory.mktemp("log"), workers=1, files=files) as broker:
        yield broker


SILENCING: Final = {
    "nothing": "pass",
    "dictConfig": "logging.config.dictConfig({'version': 1})",
    "fileConfig": "logging.config.fileConfig(io.StringIO('[loggers]\\nkeys=root\\n[handlers]\\nkeys=\\n[formatters]\\n"
    "keys=\\n[logger_root]\\nhandlers=\\n'))",
    "disable": "logging.disable(logging.CRITICAL)",
    "basicConfig": "logging.basicConfig(force=True, stream=io.StringIO())",
    "handlers": "logging.getLogger().handlers.clear()",
    "loggers": "[setattr(one, 'disabled', True) for one in logging.Logger.manager.loggerDict.values()]",
    "shutdown": "logging.shutdown()",
    "setLoggerClass": "logging.setLoggerClass(type('L', (logging.Logger,), {'handle': lambda *_: None}))",
    "raiseExceptions": "logging.raiseExceptions = False",
    "manager": "logging.Logger.manager = logging.Manager(logging.RootLogger(60))",
    "Formatter": "logging.Formatter.format = lambda *_: ''",
    "Logger": "logging.Logger._log = logging.Logger.handle = logging.Handler.handle = lambda *_, **__: None",
    "factory": "logging.setLogRecordFactory(lambda *_, **__: None)",
    "levels": "logging.addLevelName(logging.ERROR, '')",
    "stdout": "sys.stdout = sys.stderr = io.StringIO()",
    "stdout is None": "sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None",
    "devnull": "sys.stdout = open(os.devnull, 'w')",
    "closed": "vars(sys)['stdout'].close(); vars(sys)['stderr'].close()",
    "excepthook": "sys.excepthook = lambda *_: None",
    "tracebacklimit": "sys.tracebacklimit = 0",
    "linecache": "linecache.getline = linecache.checkcache = linecache.lazycache = None",
    "traceback": "traceback.format_exception = traceback.TracebackException.format = traceback.walk_tb = None",
    "descriptors replaced": "os.dup2(os.open('/dev/null', os.O_RDWR), 1); os.dup2(1, 2)",
    "descriptors closed": "os.closerange(0, 3)",
    "descriptors of others": "kept.extend(open('/dev/full', 'w') for _ in range(3))",
}


@pytest.mark.parametrize("way", SILENCING)
def test_a_bundle_cannot_silence_others(shared: RunningBroker, way: str) -> None:
    tag, place = re.sub(r"\W", "_", way), ", in fails\n"
    before = shared.log.count(place)
    call(shared, "executes", "other.py", Code=SILENCING[way])
    call(shared, "speaks", Tag=tag)
    with pytest.raises(GrpcCallError, match=f"failed {tag}"):
        call(shared, "fails", Tag=tag)
    for text in (f"printed {tag}\n", f"warned {tag}\n", f"logged {tag}\n", f"{tag}: failed {tag}"):
        shared.wait_for_log(text)
    assert shared.log.count(place) == before + 1


def test_nothing_forges_a_record(shared: RunningBroker) -> None:
    """Tries what plugins print, log and raise, names from peers, and names of loggers, levels and classes."""
    text = f"x\n{FORGED}\r{FORGED}\x1b[2J\x85{FORGED}\u2028{FORGED}"
    codes = (
        f"print({text!r})",
        f"from gateway import TykGateway; TykGateway.log({text!r}, 'error')",
        f"raise ValueError({text!r})",
        f"raise type({text!r}, (Exception,), {{}})({text!r})",
        f"logging.addLevelName(77, {text!r}); logging.getLogger({text!r}).handlers = []; "
        f"logging.lastResort = None; logging.getLogger({text!r}).log(77, {text!r})",
    )
    for code in codes:
        with contextlib.suppress(GrpcCallError):
            call(shared, "executes", "other.py", Code=code)
    for hook, bundle_hash in ((text, ""), ("quiet", text)):
        with pytest.raises(GrpcCallError, match="forged"):
            shared.call(hook, spec={"bundle_hash": bundle_hash})
    call(shared, "speaks", Tag="unforged")
    shared.wait_for_log("printed unforged")
    log = shared.log_path.read_bytes().decode()
    assert [line for line in log.splitlines() if not RECORD.match(line)] == []
    assert log.count("forged") > 4 * len(codes)
    assert "\x1b" not in log


def test_errors_shown_on_a_terminal_are_escaped(shared: RunningBroker) -> None:
    code = "raise ValueError('\\x1b[2J')"
    command = [TYKPY, "call", "executes", "--bundle", "other.py", "-H", f"Code: {code}", "--connect", shared.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "ValueError: \\x1b[2J" in done.stderr


def test_repetitions_are_logged_once(tmp_path: Path) -> None:
    """Of failing hooks, and of unknown names, however long they are."""
    with running_broker(tmp_path, workers=1, files={"mine.py": HOOKS}) as broker:
        with GrpcClient(broker.address) as client:

            def attempt(hook: str, bundle_hash: str = "", tag: str = "x") -> str:
                description = CallDescription(hook, headers=(("Tag", tag),), spec={"bundle_hash": bundle_hash})
                body = build_object(description).SerializeToString()
                with pytest.raises(GrpcCallError) as caught:
                    client.call("/coprocess.Dispatcher/Dispatch", body, timeout=PATIENCE)
                return str(caught.value)

            for number in range(300):
                attempt("fails_alike", tag=str(number))
            answers = [attempt("h" * 2**20) for _ in range(20)]
            answers += [attempt("quiet", "b" * 2**20) for _ in range(20)]
        assert max(map(len, answers)) < 10_000
        assert broker.stop() == 0
        log = broker.log
    assert log.count("Traceback") == 1
    assert "hook fails_alike of bundle mine.py failed ... 299 more in " in log
    assert len(re.findall(r" \.\.\. 19 more in ", log)) == 2
    assert len(log) < 30_000


def test_full_strength_is_announced_once(tmp_path: Path) -> None:
    with running_broker(tmp_path, workers=3, files={"mine.py": HOOKS}) as broker:

        def announced() -> int:
            return broker.log.count("3 workers ready")

        for reloads in (1, 2):
            command = [TYKPY, "reload", "--runtime-dir", str(broker.runtime)]
            assert subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0
            wait_until(lambda: announced() == 1 + reloads, lambda: broker.log)  # noqa: B023
        # A reload that is refused changes nothing.
        broker.add_file("mine.py", "from tyk.decorators import Hook\n1 / 0\n")
        os.kill(broker.pid, signal.SIGHUP)
        broker.wait_for_log("reload refused")
        assert announced() == 3
        broker.add_file("mine.py", HOOKS)
        os.kill(call(broker, "quiet"), signal.SIGKILL)
        wait_until(lambda: announced() == 4, lambda: broker.log)
        assert broker.stop() == 0
        assert announced() == 4
