"""Draw a view of a broker with rich, in any width: less important columns are left out first."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tykpy.commands.terminal import harmless, long_time
from tykpy.telemetry.records import counted
from tykpy.telemetry.view import SAMPLES, HookView, View

KEYS: Final = "< > sort   s stacks   r reload   q quit"
_NAME_WIDTH: Final = 24
"""Least width of the first column."""
_MAX_NAME_WIDTH: Final = 60
_HEADER_LINES: Final = 7
"""Lines around the rows of hooks: above, headings, and below."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_NOTICEABLE: Final = 0.05
"""Least rate that is not shown as 0.0."""
_HIGH_ERRORS: Final = 1.0
"""Percentage from which errors are shown in red."""


class Column(NamedTuple):
    """A column of the table of hooks, and what rows are sorted by."""

    title: str
    width: int
    rank: int
    """Columns of low rank stay when there is little room."""
    show: Callable[[HookView], str]
    order: Callable[[HookView], float]
    style: Callable[[HookView], str] = lambda _hook: ""
    justify_left: bool = False


COLUMNS: Final = (
    Column("RATE/s", 8, 0, lambda one: _number(one.rate), lambda one: one.rate),
    Column("P50", 7, 5, lambda one: duration(one.p50), lambda one: one.p50 or 0.0),
    Column("P99", 7, 1, lambda one: duration(one.p99), lambda one: one.p99 or 0.0),
    Column(
        "ERR%", 5, 2, lambda one: _percentage(one.errors), lambda one: one.errors,
        lambda one: "red" if one.errors >= _HIGH_ERRORS else "",
    ),
    Column("BUSY%", 5, 4, lambda one: _percentage(one.busy), lambda one: one.busy),
    Column(
        "BREAKER", 9, 3, lambda one: one.breaker, lambda one: float(bool(one.breaker)), lambda _one: "bold red",
        justify_left=True,
    ),
    Column("TREND", SAMPLES, 6, lambda one: sparkline(one.rates), lambda one: one.rate, lambda _one: "cyan",
           justify_left=True),
)  # fmt: skip
SORTS: Final = ("TIME", *(column.title for column in COLUMNS[:-1]))
"""What hooks can be sorted by: the time of their dispatches, or a column."""


class Screen(NamedTuple):
    """One frame; rich asks it to draw itself whenever the size of the terminal is another."""

    view: View
    sort: str = SORTS[0]
    notice: str = ""
    """What is wrong, above everything else."""
    footer: str = ""
    rows: int | None = None
    """Hooks that are shown at most; None: as many as the terminal has room for."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw header, hooks and footer."""
        rows = self.rows if self.rows is not None else max(options.size.height - _HEADER_LINES, 1)
        hooks = sorted_hooks(self.view.hooks, self.sort)
        parts: list[RenderableType] = [*self._notices(), *_header(self.view), Text()]
        parts.append(hook_table(hooks[:rows], options.max_width, self.sort))
        if len(hooks) > rows:
            parts.append(Text(f"and {len(hooks) - rows} more", style="dim"))
        if not hooks:
            waits = "; `tykpy stacks` shows what those under way do" if self.view.under_way else ""
            parts.append(Text(f"no dispatch has ended yet{waits}", style="dim"))
        if self.footer:
            parts += [Text(), Text(self.footer, style="dim", no_wrap=True, overflow="ellipsis")]
        yield Group(*parts)

    def _notices(self) -> Iterable[Text]:
        notices = [self.notice] if self.notice else []
        if not self.notice and self.view.stuck:
            notices.append(f"event loop has not turned for {self.view.age:.0f} s: the numbers below are from then")
        notices += [f"not ready: {one}" for one in self.view.not_ready]
        return [Text(harmless(one), style="bold red") for one in notices]


def sorted_hooks(hooks: Sequence[HookView], sort: str) -> list[HookView]:
    """Sort hooks by a column, the greatest first; they come sorted by time."""
    column = next((column for column in COLUMNS if column.title == sort), None)
    return list(hooks) if column is None else sorted(hooks, key=column.order, reverse=True)


def hook_table(hooks: Iterable[HookView], width: int, sort: str) -> Table:
    """Return the table of hooks, with the columns that a width has room for."""
    columns = columns_for(width)
    used = sum(column.width + 1 for column in columns)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("HOOK", width=min(max(width - used - 1, 1), _MAX_NAME_WIDTH), no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(
            Text(column.title, style="reverse" if column.title == sort else ""),
            width=column.width, justify="left" if column.justify_left else "right", no_wrap=True, overflow="crop",
        )  # fmt: skip
    for hook in hooks:
        table.add_row(_name(hook), *(Text(column.show(hook), style=column.style(hook)) for column in columns))
    return table


def columns_for(width: int) -> list[Column]:
    """Return the columns that fit beside a hook's name, in their order on the screen."""
    left, chosen = width - _NAME_WIDTH - 1, set()
    for column in sorted(COLUMNS, key=lambda one: one.rank):
        left -= column.width + 1
        if left < 0:
            break
        chosen.add(column.title)
    return [column for column in COLUMNS if column.title in chosen]


def sparkline(rates: Sequence[float]) -> str:
    """Return one bar per rate, in relation to the greatest one."""
    top = max(rates, default=0.0)
    if not top:
        return _BARS[0] * len(rates)
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates)


def duration(seconds: float | None) -> str:
    """Return a time in at most 7 characters."""
    if seconds is None:
        return "-"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        value = seconds * factor
        if value >= 1:
            return f"{value:.3g} {unit}" if value < 1_000 else f"{value:.0f} {unit}"
    return f"{seconds * 1e6:.1f} us"


def _header(view: View) -> Iterable[Text]:
    events = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in view.events.items() if count)
    enough = view.workers_ready >= view.workers_wanted
    yield _line(
        ("tykpy", view.version, "bold"),
        ("pid", str(view.pid), ""),
        ("up", long_time(view.uptime), ""),
        ("workers", f"{view.workers_ready}/{view.workers_wanted} ready", "" if enough else "bold red"),
        *([("", "reloading", "bold yellow")] if view.reloading else []),
    )
    yield _line(
        ("rate", f"{_number(view.rate)}/s", "bold"),
        ("p99", duration(view.p99), "bold"),
        ("errors", f"{_percentage(view.errors)} %", "bold red" if view.errors >= _HIGH_ERRORS else ""),
        *([("rejected", f"{_number(view.rejected)}/s", "bold red")] if view.rejected >= _NOTICEABLE else []),
        ("queue", f"{view.waiting:,}", "bold yellow" if view.waiting else ""),
        ("under way", f"{view.under_way:,}", ""),
    )
    store = f"{view.store}, {counted(view.store_errors, 'error')}" if view.store_errors else view.store
    yield _line(
        ("store", store, "bold red" if view.store.endswith("fails") else ""),
        ("events", events or "none", ""),
        *([("log records lost", f"{view.log_dropped:,}", "bold red")] if view.log_dropped else []),
    )


def _line(*parts: tuple[str, str, str]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for label, value, style in parts:
        if line:
            line.append("  ")
        if label:
            line.append(f"{label} ", style="dim")
        line.append(harmless(value), style=style)
    return line


def _name(hook: HookView) -> Text:
    name = Text(harmless(hook.hook))
    if hook.bundle:
        name = Text(f"{harmless(hook.bundle)} ", style="dim").append(name.plain, style="not dim")
    return name


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _percentage(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 or not value else f"{value:.1f}"
