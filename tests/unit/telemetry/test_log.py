"""The log of a process: what nobody catches is one record, and the logging module ends in it; real processes."""

import logging
import re
import subprocess
import sys
from textwrap import dedent
from typing import Final

import pytest

from tykpy.telemetry.log import Log

PROCESS: Final = """
    import gc, logging, os, sys, threading
    from tykpy.telemetry import log
    log.open_log(shows_process=True)
    log.configure_log("info")
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
