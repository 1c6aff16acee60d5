"""Whatever text a record has, it reads as one record of bounded length."""

import re
import sys
import time
from itertools import pairwise

import pytest

from tykpy.telemetry.records import (
    CONTINUATION,
    FIRST_LINES,
    LAST_LINES,
    MAX_MESSAGE,
    MAX_TRACE_LINE,
    ExceptionInfo,
    printable,
    render,
    shorten,
)

NOW = 1_700_000_000.0625
FORGED = "2026-01-01 00:00:00,000 ERROR   tykpy.broker: forged"


def rendered(message: str, error: ExceptionInfo | None = None) -> str:
    return render(NOW, "ERROR", 7, "tykpy.worker", message, error).decode()


def raised(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:  # noqa: BLE001 (of any class)
        kind, value, trace = sys.exc_info()
    assert kind is not None
    assert value is not None
    return kind, value, trace


def test_a_record_has_time_level_process_and_name() -> None:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW))
    assert rendered("said") == f"{clock},062 ERROR   [7] tykpy.worker: said\n"
    assert render(NOW, "INFO", None, "tykpy.broker", "said") == f"{clock},062 INFO    tykpy.broker: said\n".encode()


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_no_separator_begins_a_line(separator: str) -> None:
    """Neither in the message nor in level and name, which plugins choose as well."""
    text = f"text{separator}{FORGED}"
    assert len(rendered(text).splitlines()) == 1
    assert len(render(NOW, text, 7, text, text).decode().splitlines()) == 1
    assert all(line.startswith(CONTINUATION) for line in rendered("failed", raised(ValueError(text))).splitlines()[1:])


@pytest.mark.parametrize("character", ["\x1b", "\x00", "\x07", "\x08", "\x7f", "\x9b", "\u202e", "\u2066"], ids=ascii)
def test_control_characters_are_escaped(character: str) -> None:
    escaped = character.encode("unicode_escape").decode()
    assert printable(f"a{character}b", 10) == f"a{escaped}b"
    assert character not in rendered("failed", raised(ValueError(character)))


def test_ordinary_text_stays_as_it_is() -> None:
    text = "tab\tquote' back\\slash ünï 漢字 🐍"
    assert text in rendered(text)


def test_lone_surrogates_are_escaped() -> None:
    assert "\\udc80" in rendered("a\udc80")


def test_long_messages_are_cut() -> None:
    assert rendered("x" * (MAX_MESSAGE + 1_234)).endswith("xxx... (1,234 more characters)\n")
    assert shorten("abc", 3) == "abc"


def test_long_tracebacks_keep_their_ends() -> None:
    lines = rendered("failed", raised(ValueError("\n".join(map(str, range(1_000)))))).splitlines()
    assert len(lines) == 1 + FIRST_LINES + 1 + LAST_LINES
    assert lines[1] == f"{CONTINUATION}Traceback (most recent call last):"
    assert re.fullmatch(re.escape(CONTINUATION) + r"\.\.\. \d+ lines left out \.\.\.", lines[1 + FIRST_LINES])
    assert lines[-1] == f"{CONTINUATION}999"
    tail = [int(line.removeprefix(CONTINUATION)) for line in lines[-LAST_LINES:]]
    assert all(after == before + 1 for before, after in pairwise(tail))


def test_long_lines_of_a_traceback_are_cut() -> None:
    last = rendered("failed", raised(ValueError("x" * 10_000_000))).splitlines()[-1]
    assert len(last) < MAX_TRACE_LINE + 100


def test_an_exception_that_cannot_be_shown_is_named() -> None:
    class HostileError(Exception):
        def __getattribute__(self, name: str) -> object:
            raise KeyboardInterrupt

    assert "HostileError" in rendered("failed", (HostileError, HostileError(), None))
