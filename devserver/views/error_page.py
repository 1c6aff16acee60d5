"""The page that a browser is shown where a hook failed: the traceback with source and variables, secrets masked."""

from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from tykpy.devserver.hooks.contract import Problem, SourceFrame
from tykpy.devserver.hooks.masking import Masker
from tykpy.devserver.trace import Trace

_PAGE: Final = "page/error.html"


def error_page(trace: Trace, problems: Iterable[Problem]) -> bytes:
    """Return the page."""
    template = Template(files("tykpy.devserver.views").joinpath(_PAGE).read_text())
    shown = list(problems)
    masker = Masker(trace.secrets)
    return template.substitute(
        title=escape(masker.text(shown[0].exception or shown[0].message)),
        request=escape(f"{trace.request.method} {masker.text(trace.request.url)}"),
        problems="".join(_problem(problem, masker) for problem in shown),
        headers="".join(_headers(trace, masker)),
        printed=_printed(trace, masker.for_prints()),
    ).encode(errors="backslashreplace")


def _problem(problem: Problem, masker: Masker) -> str:
    frames = "".join(_frame(frame, masker, is_last=frame is problem.frames[-1]) for frame in problem.frames)
    heading = escape(masker.text(problem.exception or problem.status))
    return f"<section><h2>{heading}</h2><p>{escape(masker.text(problem.message))}</p>{frames}</section>"


def _frame(frame: SourceFrame, masker: Masker, *, is_last: bool) -> str:
    kind = "own" if frame.is_plugin else "other"
    is_open = " open" if frame.is_plugin or is_last else ""
    lines = "".join(
        f'<li value="{number}"{" class=here" if number == frame.line else ""}>'
        f"<code>{escape(masker.text(text)) or ' '}</code></li>"
        for number, text in frame.source
    )
    rows = "".join(
        f"<tr><th>{escape(name)}<td><code>{escape(masker.value(name, value))}</code>" for name, value in frame.variables
    )
    function = f" in <b>{escape(frame.function)}</b>" if frame.function else ""
    place = f"{escape(frame.file)}:{frame.line}{function}"
    table = f"<table>{rows}</table>" if rows else ""
    return f'<details class="{kind}"{is_open}><summary>{place}</summary><ol>{lines}</ol>{table}</details>'


def _headers(trace: Trace, masker: Masker) -> Iterator[str]:
    for name, values in trace.request.headers.items():
        for value in values:
            yield f"<tr><th>{escape(name)}<td><code>{escape(masker.value(name, value))}</code>"


def _printed(trace: Trace, masker: Masker) -> str:
    lines = [f"{call.name}: {masker.text(line.text)}" for call in trace.hooks for line in call.answer.printed]
    return f"<section><h2>Printed</h2><pre>{escape(chr(10).join(lines))}</pre></section>" if lines else ""
