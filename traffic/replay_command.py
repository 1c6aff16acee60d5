"""`tykpy replay`: run a recording's calls through a bundle, and compare what it answers."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tykpy.commands.terminal import harmless, no_traceback, shortened, table
from tykpy.telemetry.records import counted

if TYPE_CHECKING:
    from tykpy.traffic.differences import Differences
    from tykpy.traffic.replay import Replay

EXIT_DIFFERENT: Final = 1
_MAX_VALUE: Final = 60
"""Characters of a value in an example."""
_path = click.Path(path_type=Path)


@click.command(short_help="Replay a recording with another version of a bundle.")
@click.argument("file", type=_path)
@click.option("--bundle", "new", type=_path, required=True, metavar="PATH",
              help="The bundle to run: a folder, a ZIP or a .py file.")  # fmt: skip
@click.option("--against", "old", type=_path, metavar="PATH",
              help="Compare with what this bundle answers now, and not with what was recorded.")  # fmt: skip
@click.option("--recorded", metavar="NAME",
              help="The recorded bundle to replace.  [default: the one of the same name, or the only one]")  # fmt: skip
@click.option("--diff", is_flag=True, help="Show an example of each kind of difference.")
@click.option("--ignore", multiple=True, metavar="PATH",
              help="Ignore differences in a field, e.g. request.set_headers['X-Request-Id']. Repeatable.")  # fmt: skip
@click.option(
    "--as-tests", type=_path, metavar="FOLDER", help="Write calls and what the bundle answered as pytest cases."
)
def replay(
    file: Path, new: Path, old: Path | None, recorded: str | None, diff: bool, ignore: tuple[str, ...],
    as_tests: Path | None,
) -> None:  # fmt: skip
    """Replay the calls of a recording with a bundle, and exit with 1 if it answers differently.

    Each bundle runs in a broker of its own with one worker, and gets the calls one by one, in their recorded order.
    """
    from tykpy.traffic.as_tests import TestWriter
    from tykpy.traffic.bundle_run import BundleRun
    from tykpy.traffic.differences import Differences
    from tykpy.traffic.recording import Recording
    from tykpy.traffic.replay import recorded_bundle
    from tykpy.traffic.replay import replay as run

    with no_traceback():
        run_new, run_old = BundleRun(new), None if old is None else BundleRun(old)
        with closing(Recording(file)) as recording:
            bundle = recorded_bundle(recording.calls(), run_new.name, recorded)
        tests = None if as_tests is None else TestWriter(as_tests, run_new)
        with closing(Recording(file)) as recording:
            done = run(recording, run_new, run_old, Differences(ignore), bundle, *([tests.keep] if tests else ()))
        _show(done, bundle, diff)
        if tests is not None:
            click.echo(f"{counted(tests.write(), 'case')} in {as_tests}")
    if done.differences.differing:
        raise SystemExit(EXIT_DIFFERENT)


def _show(done: "Replay", bundle: str, diff: bool) -> None:
    differences = done.differences
    click.echo(harmless(f"{counted(done.replayed, 'call')} of {bundle} replayed" + _left_out(done)))
    if differences.ignored:
        click.echo(f"{differences.ignored} differ only where --ignore says so")
    if not differences.groups:
        click.echo("no differences")
    else:
        click.echo(f"{differences.differing} differ, in {counted(len(differences.groups), 'way')}:")
        _show_groups(differences, diff)
    _show_times(done)


def _left_out(done: "Replay") -> str:
    notes = []
    if done.skipped:
        notes.append(f"{done.skipped} not, because their recorded outcome was not the hook's")
    if done.missing:
        notes.append(f"{done.missing} are missing in the recording")
    if done.cut_off:
        notes.append("the recording was cut off, its last calls may be missing")
    return "".join(f"; {note}" for note in notes)


def _show_groups(differences: "Differences", diff: bool) -> None:
    groups = sorted(differences.groups.items(), key=lambda item: -item[1].calls)
    if not diff:
        table(("CALLS", "HOOK", "", "FIELD"), ((str(group.calls), *shape) for shape, group in groups))
        return
    for shape, group in groups:
        heading = (
            f"{counted(group.calls, 'call')} of {shape.hook}: {shape.sign} {shape.path}, as in call {group.number}"
        )
        click.echo("\n" + harmless(heading))
        for sign, value in (("-", group.example.before), ("+", group.example.after)):
            if value is not None:
                click.echo(harmless(f"  {sign} {shortened(value, _MAX_VALUE)}"))


def _show_times(done: "Replay") -> None:
    from tykpy.traffic.replay import PERCENTILES, percentile

    rows = [
        (name, *(f"{percentile(times, share) / 1000:.3f} ms" for share in PERCENTILES))
        for name, times in done.times.items()
        if times
    ]
    if rows:
        click.echo()
        table(("TIME OF HOOKS", *(f"P{share}" for share in PERCENTILES)), rows)
