"""Whatever text a record has, it reads as one record of bounded length, to people and to programs."""

import json
import re
import sys
import time
from itertools import pairwise

import pytest

from tykpy.telemetry.records import (
    FIRST_LINES,
    LAST_LINES,
    MAX_MESSAGE,
    MAX_TRACE_LINE,
    ExceptionInfo,
    Record,
    Source,
    counted,
    printable,
    shorten,
)
from tykpy.telemetry.renderers import CONTINUATION, render_console, render_json

NOW = 1_700_000_000.0625
FORGED = "2026-01-01 00:00:00,000 ERROR   tykpy.broker: forged"


WORKER = Source("worker", 3)
SEPARATORS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]
CONTROLS = ["\x1b", "\x00", "\x07", "\x08", "\x7f", "\x9b", "\u202e", "\u2066"]


def record(message: str, error: ExceptionInfo | None = None) -> Record:
    return Record(NOW, "ERROR", "tykpy.worker", message, 7, WORKER, error)


def rendered(message: str, error: ExceptionInfo | None = None) -> str:
    return render_console(record(message, error)).decode()


def as_json(one: Record) -> dict[str, object]:
    (line,) = render_json(one).decode().splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


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
    broker = Record(NOW, "INFO", "tykpy.broker", "said", 7)
    assert render_console(broker) == f"{clock},062 INFO    tykpy.broker: said\n".encode()


@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_no_separator_begins_a_line(separator: str) -> None:
    """Neither in the message nor in level and name, which plugins choose as well."""
    text = f"text{separator}{FORGED}"
    assert len(rendered(text).splitlines()) == 1
    assert len(render_console(Record(NOW, text, text, text, 7)).decode().splitlines()) == 1
    assert all(line.startswith(CONTINUATION) for line in rendered("failed", raised(ValueError(text))).splitlines()[1:])


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
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


@pytest.mark.parametrize(
    ("target", "value"), [("sys.tracebacklimit", 0), ("linecache.getline", None), ("traceback.walk_tb", None)]
)
def test_a_patched_standard_library_hides_no_place(monkeypatch: pytest.MonkeyPatch, target: str, value: object) -> None:
    error = raised(ValueError("the cause"))
    monkeypatch.setattr(target, value, raising=False)
    shown = rendered("failed", error)
    monkeypatch.undo()
    assert f'File "{__file__}", line ' in shown
    assert "in raised\n" in shown
    assert "ValueError: the cause" in shown


def chained(count: int) -> ValueError:
    error = ValueError("first")
    for number in range(count):
        later = ValueError(str(number))
        later.__cause__ = error
        error = later
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (chained(100_000), "ValueError: 99999 ("),
        (ExceptionGroup("many", [ValueError()] * 100_000), "ExceptionGroup: many (100000 sub-exceptions) ("),
        (ExceptionGroup("many", [ValueError(str(number)) for number in range(200)]), "ExceptionGroup: many (200 sub"),
    ],
)
def test_an_exception_of_many_costs_little(error: BaseException, text: str) -> None:
    shown = rendered("failed", raised(error))
    assert text in shown
    assert "(its traceback cannot be shown in full: it has more than 100 causes or members)" in shown
    assert f'File "{__file__}", line ' in shown
    assert len(shown) < 1_000


def test_causes_and_groups_of_usual_size_are_shown() -> None:
    group = ExceptionGroup("several", [ValueError("one"), chained(20)])
    shown = render_json(record("failed", raised(group))).decode()
    assert all(f"ValueError: {text}" in shown for text in ("one", "first", "19"))


def test_a_class_named_by_its_metaclass_is_no_obstacle() -> None:
    class Odd(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise KeyboardInterrupt

    class OddError(BaseException, metaclass=Odd):
        pass

    class HostileError(Exception):
        def __str__(self) -> str:
            raise OddError

    assert "HostileError" in rendered("failed", raised(HostileError()))
    assert "OddError" in str(as_json(record("failed", raised(HostileError())))["error_message"])


def test_json_has_the_same_as_fields() -> None:
    said = Record(NOW, "WARNING", "mine", "said", 7, WORKER, fields={"bundle": "b", "hook": "h"}, extra={"tenant": 5})
    assert as_json(said) == {
        "time": "2023-11-14T22:13:20.062Z", "level": "warning", "logger": "mine", "message": "said",
        "process": "worker", "pid": 7, "worker": 3, "bundle": "b", "hook": "h", "extra": {"tenant": 5},
    }  # fmt: skip
    assert "worker" not in as_json(Record(NOW, "INFO", "tykpy.broker", "said", 7))


@pytest.mark.parametrize("text", [*SEPARATORS, *CONTROLS, '"', "\\", "\udc80", "🐍"], ids=ascii)
def test_json_keeps_any_text_on_one_line(text: str) -> None:
    forged = f'a{text}{{"level":"error","message":"forged"}}'
    error = raised(ValueError(text))
    one = Record(NOW, text, text, forged, 7, WORKER, error, fields={"hook": text}, extra={text: text})
    found = as_json(one)
    assert found["message"] == forged
    assert (found["logger"], found["hook"], found["error_message"], found["extra"]) == (text, text, text, {text: text})
    assert not set(render_json(one).decode().removesuffix("\n")) & {*SEPARATORS, *CONTROLS}


def test_json_has_type_text_and_stack_of_an_error() -> None:
    found = as_json(record("failed", raised(ValueError("\n".join(map(str, range(1_000)))))))
    assert found["error_type"] == "ValueError"
    assert str(found["error_message"]).startswith("0\n1\n2")
    assert len(str(found["error_message"])) < MAX_TRACE_LINE + 100
    stack = str(found["stack"]).split("\n")
    assert len(stack) == FIRST_LINES + 1 + LAST_LINES
    assert stack[0] == "Traceback (most recent call last):"


def test_json_is_bounded() -> None:
    assert str(as_json(record("x" * (MAX_MESSAGE + 1_234)))["message"]).endswith("xxx... (1,234 more characters)")


def test_json_of_a_hostile_exception() -> None:
    class HostileMeta(type):
        def __getattribute__(cls, name: str) -> object:
            raise KeyboardInterrupt

    class HostileError(Exception, metaclass=HostileMeta):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    found = as_json(record("failed", (HostileError, HostileError(), None)))
    assert found["error_type"] == "HostileError"
    assert found["error_message"] == "(its text cannot be shown: KeyboardInterrupt)"


def test_people_see_where_output_of_plugins_is_from() -> None:
    fields = {"bundle": "mine", "hook": "check"}
    printed = Record(NOW, "INFO", "tykpy.plugin", "printed", 7, WORKER, fields=fields)
    assert b"tykpy.plugin: mine/check: printed\n" in render_console(printed)
    assert b"their.logger: mine/check: printed\n" in render_console(printed._replace(name="their.logger"))
    assert b"tykpy.plugin: mine: printed\n" in render_console(printed._replace(fields={"bundle": "mine"}))
    assert b"tykpy.worker: printed\n" in render_console(printed._replace(name="tykpy.worker"))


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (0, ("worker",), "0 workers"),
        (1, ("worker",), "1 worker"),
        (1_000, ("worker",), "1,000 workers"),
        (1, ("dispatch waits", "dispatches wait"), "1 dispatch waits"),
        (2, ("dispatch waits", "dispatches wait"), "2 dispatches wait"),
    ],
)
def test_numbers_have_the_right_noun(number: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(number, *nouns) == text
