"""Exceptions of plugin code as data: frames with their source and variables, for terminals and error pages."""

import linecache
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Final

from tykpy.bundles.bundle import Bundle
from tykpy.bundles.errors import BundleError, WorkerError, WrongReturnError
from tykpy.bundles.plugin_errors import class_name, described, from_plugin
from tykpy.devserver.hooks.contract import Problem, SourceFrame
from tykpy.devserver.hooks.masking import MASK, is_secret, masked

AROUND: Final = 4
"""Lines of source that are shown before and after a frame's own."""
MAX_FRAMES: Final = 30
"""Innermost frames of a traceback that are shown."""
MAX_VARIABLES: Final = 40
MAX_VALUE: Final = 400
"""Longest value of a variable, in characters."""
LOAD_FAILED: Final = "LOAD_FAILED"


def problem_of(error: BaseException, roots: Iterable[str]) -> Problem:
    """Describe why a call failed; `roots` are the folders of the bundles."""
    roots = tuple(roots)
    if not isinstance(error, WorkerError):
        return Problem(
            "INTERNAL", f"a fault of tykpy itself: {described(error)}", described(error), _frames(error, roots)
        )
    cause = error.__cause__
    if cause is None:
        return Problem(error.status.name, error.message)
    if isinstance(cause, WrongReturnError):
        # It is raised behind the hook's end: its traceback has only code of ours.
        frames: tuple[SourceFrame, ...] = (_place(cause.file, cause.line),)
    else:
        frames = _frames(cause, roots)
    last = next((frame for frame in reversed(frames) if frame.is_plugin), None)
    return Problem(
        error.status.name,
        error.message,
        described(cause),
        frames,
        last.file if last else "",
        last.line if last else 0,
    )


def load_problems(bundles: Iterable[Bundle]) -> Iterator[Problem]:
    """Describe what is wrong with bundles that were loaded."""
    for bundle in bundles:
        errors = [part.error for part in bundle.parts if part.error is not None]
        errors += [faulty.error for faulty in bundle.faulty.values()]
        roots = tuple(str(part.root) for part in bundle.parts)
        for error in errors:
            yield _load_problem(error, roots)


def _load_problem(error: BundleError, roots: tuple[str, ...]) -> Problem:
    cause = error.__cause__
    frames = () if cause is None or isinstance(cause, SyntaxError) else _frames(cause, roots)
    if not any(frame.is_plugin for frame in frames):
        if error.file and error.line:
            frames = (_place(error.file, error.line),)
        elif isinstance(cause, OSError):
            frames = ()  # of the code that wanted to read the file
    exception = "" if cause is None else f"{class_name(cause)}: {error.message.removeprefix(f'{class_name(cause)}: ')}"
    return Problem(LOAD_FAILED, str(error), exception, frames, error.file, error.line)


def _frames(error: BaseException, roots: tuple[str, ...]) -> tuple[SourceFrame, ...]:
    trace = error.__traceback__
    for root in roots:
        if (own := from_plugin(trace, root)) is not trace:
            trace = own
            break
    found = [_frame(frame, line, roots) for frame, line in _walk(trace)]
    return tuple(found[-MAX_FRAMES:])


def _walk(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno or 0
        trace = trace.tb_next


def _frame(frame: FrameType, line: int, roots: tuple[str, ...]) -> SourceFrame:
    code = frame.f_code
    is_plugin = any(code.co_filename.startswith(root) for root in roots)
    variables = tuple(_variables(frame)) if is_plugin else ()
    return SourceFrame(
        code.co_filename, line, code.co_qualname, _source(code.co_filename, line, frame), variables, is_plugin
    )


def _place(file: str, line: int) -> SourceFrame:
    """Return a line of the bundle as a frame."""
    return SourceFrame(file, line, "", _source(file, line), is_plugin=True)


def _source(file: str, line: int, frame: FrameType | None = None) -> tuple[tuple[int, str], ...]:
    linecache.checkcache(file)
    lines = linecache.getlines(file, None if frame is None else frame.f_globals)
    first = max(line - AROUND, 1)
    return tuple((number, text.rstrip("\n")) for number, text in enumerate(lines[first - 1 : line + AROUND], first))


def _variables(frame: FrameType) -> Iterator[tuple[str, str]]:
    for name, value in list(frame.f_locals.items())[:MAX_VARIABLES]:
        yield name, MASK if is_secret(name) else _shown(value)


def _shown(value: object) -> str:
    try:
        text = repr(value) or f"<empty {type(value).__qualname__}>"
    except BaseException as error:  # noqa: BLE001 (the value's own code)
        return f"<its __repr__ raised {class_name(error)}>"
    text = masked(text)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"
