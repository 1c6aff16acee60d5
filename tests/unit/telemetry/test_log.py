"""The log of a process: what nobody catches is one record, and the logging module ends in it; real processes."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
from textwrap import dedent
from typing import Final

import pytest

from tykpy.telemetry.extra import MAX_FIELDS, MAX_KEY, MAX_VALUE
from tykpy.telemetry.log import Log

PROCESS: Final = """
    import gc, logging, os, sys, threading
    from tykpy.telemetry import log
    log.open_log(log.Source("worker", 1))
    log.configure_log("info", "console")
    own = log.Log("own")
"""
HEAD: Final = re.compile(r"^\d{4}-\S+ \S+ (\w+ +)\[\d+\] ", re.MULTILINE)


def records(body: str, code: int = 0) -> list[str]:
    """What a process with this code has logged, a record each, without times."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", dedent(PROCESS) + dedent(body)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return re.split(r"\n(?!  \| )", HEAD.sub(r"\1", done.stderr).rstrip("\n"))


def test_an_uncaught_exception_is_one_record() -> None:
    found = records('raise LookupError("no such thing")', code=1)
    assert len(found) == 1
    assert found[0].startswith("ERROR   tykpy.process: the process ends with an exception\n  | Traceback")
    assert found[0].endswith("  | LookupError: no such thing")


def test_an_exception_in_a_thread_is_one_record() -> None:
    found = records("""
        def fail():
            raise LookupError("no such thing")
        for target in (fail, sys.exit):
            thread = threading.Thread(target=target, name="worker\\nof mine")
            thread.start()
            thread.join()
    """)
    assert len(found) == 1
    assert found[0].startswith("ERROR   tykpy.process: thread worker\\nof mine ends with an exception\n  | Traceback")


def test_an_exception_in_a_finalizer_is_one_record() -> None:
    found = records("""
        class Thing:
            def __del__(self):
                raise LookupError("no such thing")
        Thing()
        gc.collect()
    """)
    assert len(found) == 1
    assert "Thing.__del__\n  | Traceback" in found[0]


def test_the_logging_module_ends_in_the_log() -> None:
    found = records("""
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("plugin").exception("failed for %s", "x")
        logging.getLogger("plugin").debug("below the level")
        logging.getLogger("plugin").error("no %d", "number")
        logging.getLogger("plugin").warning("after")
    """)
    assert found[0].startswith("ERROR   plugin: failed for x\n  | Traceback")
    assert found[0].endswith("  | ZeroDivisionError: division by zero")
    assert not [record for record in found if "below the level" in record]
    assert found[-1] == "WARNING plugin: after"


def test_levels_and_arguments() -> None:
    assert records("""
        own.debug("not this")
        own.info("%s %d", "a", 1)
        own.warning("100 %")
        own.log(33, "of its own level")
        try:
            raise ValueError("x")
        except ValueError:
            own.exception("failed")
    """)[:3] == ["INFO    own: a 1", "WARNING own: 100 %", "33      own: of its own level"]


def test_records_of_a_closed_log_are_written() -> None:
    """As those of exit handlers that run after it was closed."""
    assert records('log.close_log()\nown.error("late")') == ["ERROR   own: late"]


def test_without_a_log_records_go_to_the_logging_module(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Log("own").info("%s", "text")
        Log("own").debug("below the level")
    assert caplog.record_tuples == [("own", logging.INFO, "text")]


FORMAT: Final = """
    import logging, sys
    from tykpy.telemetry import log
    log.open_log()
    log.configure_log("info", sys.argv[1])
    logging.getLogger("plugin").error("text")
"""


def on_terminal(form: str, **env: str) -> str:
    """Return what a process with this format has logged to a terminal."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        command = [sys.executable, "-P", "-c", dedent(FORMAT), form]
        subprocess.run(command, stderr=theirs, env={**os.environ, "TERM": "xterm", **env}, check=True)
        os.close(theirs)
        return terminal.read(4096).decode()


def on_pipe(form: str) -> str:
    command = [sys.executable, "-P", "-c", dedent(FORMAT), form]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_auto_is_for_people_on_a_terminal_only() -> None:
    assert "plugin: text" in on_terminal("auto")
    assert json.loads(on_terminal("json"))["message"] == "text"
    assert json.loads(on_pipe("auto"))["message"] == "text"
    assert "plugin: text" in on_pipe("console")


def test_only_a_terminal_gets_colours() -> None:
    assert "\x1b[31mERROR  \x1b[0m plugin: text" in on_terminal("console", NO_COLOR="")
    assert "\x1b" not in on_terminal("console", NO_COLOR="1")
    assert "\x1b" not in on_terminal("console", TERM="dumb")
    assert "\x1b" not in on_pipe("console")


def test_extra_fields_of_plugins_are_bounded() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", dedent("""
            import logging
            from tykpy.telemetry import log
            log.open_log()
            logger = logging.getLogger("plugin")
            class Hostile:
                def __repr__(self):
                    raise KeyboardInterrupt
            logger.warning("few", extra={"tenant": "a", "n": 5, "nan": float("nan"), "big": 10**5000, "any": Hostile()})
            logger.warning("many", extra={f"{n}" + "k" * 1000: "v" * 100_000 for n in range(1000)})
            logger.warning("none")
        """)], capture_output=True, text=True, check=True,
    )  # fmt: skip
    few, many, none = map(json.loads, done.stderr.splitlines())
    assert few["extra"].keys() == {"tenant", "n", "nan", "big", "any"}
    assert (few["extra"]["tenant"], few["extra"]["n"], few["extra"]["nan"]) == ("a", 5, "nan")
    assert len(many["extra"]) == MAX_FIELDS
    assert all(len(key) < MAX_KEY + 50 and len(value) < MAX_VALUE + 50 for key, value in many["extra"].items())
    assert "extra" not in none
