"""What `tykpy dev` shows in its terminal: one line per request, and below it what each hook did."""

import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.text import Text

from tykpy.devserver.gateway import Loading
from tykpy.devserver.hooks.contract import HookAnswer, Printed, Problem, SourceFrame
from tykpy.devserver.hooks.masking import MASK, NOTHING_MASKED, Masker
from tykpy.devserver.trace import HandlerCall, HookCall, Note, Trace
from tykpy.telemetry.records import counted, printable
from tykpy.workers.objects.changes import Change

MAX_TEXT: Final = 4_000
"""Longest line that is shown, in characters."""
MAX_VALUE: Final = 200
"""Longest value of a change that is shown, in characters."""
MAX_PRINTED: Final = 100
"""Lines of one hook's output that are shown."""
_SIGNS: Final = {"+": "green", "-": "red", "~": "yellow"}
_SLOW_S: Final = 0.1
_MS: Final = 1_000


class TerminalView:
    """Writes to a console, with secrets masked. While a debugger has the terminal, what there is to show waits."""

    def __init__(self, console: Console, *, show_secrets: bool = False) -> None:
        self._console = console
        self._show_secrets = show_secrets
        self._has_told_of_masks = show_secrets
        self._waiting: list[Text] = []
        self._events: dict[int, int] = {}
        """How many events of the last traces have been shown, by the traces' numbers."""
        self.is_paused = False
        """Whether a debugger has the terminal."""

    def pause(self, is_paused: bool) -> None:
        """Leave the terminal to a debugger, or take it back."""
        self.is_paused = is_paused
        if not is_paused:
            waiting, self._waiting = self._waiting, []
            for text in waiting:
                self._print(text)

    def show(self, trace: Trace) -> None:
        """Show a request; or, if that has been done, the event handlers that have ended since."""
        masker = NOTHING_MASKED if self._show_secrets else Masker(trace.secrets)
        is_known = trace.number in self._events
        shown = self._events.get(trace.number, 0)
        lines = list(_new_events(trace, shown, masker) if is_known else _trace_lines(trace, masker))
        self._events[trace.number] = len(trace.events)
        while len(self._events) > MAX_PRINTED:
            del self._events[next(iter(self._events))]
        for line in lines:
            self._print(line)
        if not self._has_told_of_masks and any(MASK in line.plain for line in lines):
            self._has_told_of_masks = True
            self._print(_line("  ", "", f"{MASK} is in place of secrets; --show-secrets shows them", "dim"))

    def show_loading(self, loading: Loading) -> None:
        """Show what is served, or what is wrong."""
        masker = NOTHING_MASKED if self._show_secrets else Masker()
        for printed in loading.loaded.printed:
            self._print(_printed(printed, "  ", masker))
        for problem in loading.problems:
            for line in _problem_lines(problem, "  ", masker):
                self._print(line)
        for warning in loading.warnings:
            self._print(_line("  ! ", "yellow", warning))
        if not loading.problems:
            for api in loading.apis:
                count = counted(api.middleware.count, "hook")
                self._print(_line("  ", "", f"{api.listen_path}  {api.title}, {count}"))

    def tell(self, text: str, style: str = "") -> None:
        """Show a line of our own."""
        self._print(_line("", style, text))

    def _print(self, text: Text) -> None:
        if self.is_paused:
            self._waiting.append(text)
        else:
            self._console.print(text, soft_wrap=True, highlight=False)


def _trace_lines(trace: Trace, masker: Masker) -> Iterator[Text]:
    yield _request_line(trace, masker)
    for step in trace.steps:
        yield from _note_lines(step, masker) if isinstance(step, Note) else _hook_lines(step, masker)
    if trace.error:
        yield _line("  ✗ ", "red", masker.text(trace.error))
    yield from _new_events(trace, 0, masker)


def _new_events(trace: Trace, shown: int, masker: Masker) -> Iterator[Text]:
    for event in trace.events[shown:]:
        yield from _event_lines(event, masker)


def _request_line(trace: Trace, masker: Masker) -> Text:
    status = 0 if trace.response is None else trace.response.status
    style = "green" if 200 <= status < 400 else "yellow" if 400 <= status < 500 else "red"
    when = time.strftime("%H:%M:%S", time.localtime(trace.started))
    text = Text().append(f"{when} ", style="dim")
    text.append(f"{_clean(trace.request.method)} {masker.text(_clean(trace.request.url))} ", style="bold")
    text.append(str(status) if status else "connection dropped", style=f"bold {style}")
    return text.append(_time(trace.seconds), style="dim")


def _note_lines(note: Note, masker: Masker) -> Iterator[Text]:
    text = _line(f"  {note.stage}: ", "dim", masker.text(note.text), "dim")
    yield text.append(_time(note.seconds), style="dim") if note.seconds else text


def _hook_lines(call: HookCall, masker: Masker) -> Iterator[Text]:
    text = Text(f"  {call.hook_type} ", style="cyan")
    text.append(_clean(call.name), style="bold")
    yield text.append(_time(call.answer.seconds), style="yellow" if call.answer.seconds > _SLOW_S else "dim")
    yield from (_change(change, masker) for change in call.changes)
    yield from _answer_lines(call.answer, masker)
    for ignored in call.ignored:
        yield _line("    ! ", "yellow", masker.text(str(ignored)), "yellow")


def _event_lines(event: HandlerCall, masker: Masker) -> Iterator[Text]:
    yield _line("  event ", "cyan", f"{event.event} -> {event.handler}").append(
        _time(event.answer.seconds), style="dim"
    )
    yield from _answer_lines(event.answer, masker)


def _answer_lines(answer: HookAnswer, masker: Masker) -> Iterator[Text]:
    for printed in answer.printed[:MAX_PRINTED]:
        yield _printed(printed, "    ", masker)
    if len(answer.printed) > MAX_PRINTED:
        yield _line("    ", "dim", counted(len(answer.printed) - MAX_PRINTED, "more line"))
    for event in answer.triggered:
        yield _line("    event ", "cyan", masker.text(f"{event.name} {event.payload}"))
    if answer.problem is not None:
        yield from _problem_lines(answer.problem, "    ", masker)


def _change(change: Change, masker: Masker) -> Text:
    text = Text(f"    {change.sign} ", style=_SIGNS[change.sign])
    text.append(f"{_clean(change.path)}: ", style=_SIGNS[change.sign])
    before, after = (_value(change.path, value, masker) for value in (change.before, change.after))
    if before is not None:
        text.append(before, style="red" if after is not None else "")
    if before is not None and after is not None:
        text.append(" -> ", style="dim")
    return text if after is None else text.append(after, style="green" if before is not None else "")


def _value(path: str, value: str | None, masker: Masker) -> str | None:
    """Return a value as it is shown: without secrets, and shortened."""
    if value is None:
        return None
    text = masker.value_at(path, _clean(value))
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text)} characters)"


def _printed(printed: Printed, indent: str, masker: Masker) -> Text:
    style = "" if printed.source in ("stdout", "info", "debug") else "yellow"
    return _line(f"{indent}| ", "dim", masker.for_prints().text(printed.text), style)


def _problem_lines(problem: Problem, indent: str, masker: Masker) -> Iterator[Text]:
    yield _line(f"{indent}✗ ", "red", masker.text(problem.message), "red")
    own = [frame for frame in problem.frames if frame.is_plugin] or list(problem.frames[-1:])
    for frame in own:
        yield from _frame_lines(frame, indent, masker)


def _frame_lines(frame: SourceFrame, indent: str, masker: Masker) -> Iterator[Text]:
    function = f" in {frame.function}" if frame.function else ""
    yield _line(f"{indent}  ", "", f"{frame.file}:{frame.line}{function}", "dim")
    for number, text in frame.source:
        is_here = number == frame.line
        mark = ">" if is_here else " "
        style = "bold" if is_here else "dim"
        yield _line(f"{indent}  {mark} {number:>4} ", "red" if is_here else "dim", masker.text(text), style)


def _line(prefix: str, prefix_style: str, text: str, style: str = "") -> Text:
    return Text(prefix, style=prefix_style).append(_clean(text), style=style)


def _clean(text: str) -> str:
    """Escape what controls a terminal: texts come from plugins and clients."""
    return printable(text.encode(errors="backslashreplace").decode(), MAX_TEXT)


def _time(seconds: float) -> str:
    return f"  {seconds * _MS:.1f} ms" if seconds < 1 else f"  {seconds:.2f} s"
