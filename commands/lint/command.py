"""The command `tykpy lint`, and how findings are printed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tykpy.commands.terminal import EXIT_ERROR, no_traceback
from tykpy.telemetry.records import counted

if TYPE_CHECKING:
    from tykpy.commands.lint.findings import LintReport


@click.command(short_help="Find code that the gateway will ignore, or that fails.")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["console", "github", "sarif"]),
    default="console",
    show_default=True,
    help="Lines for people, annotations for GitHub Actions, or SARIF 2.1.0 for code scanning and editors.",
)
def lint(bundles: tuple[Path, ...], output_format: str) -> None:
    """Find what the gateway will ignore in the code of each BUNDLE, without running it.

    BUNDLE is a folder, ZIP or .py file, or a folder with many of them, as the gateway has: middleware/bundles.
    `# tykpy: ignore[RULE]` on a line allows it; ignore = ["RULE"] in [tool.tykpy.lint] of the nearest pyproject.toml
    turns a rule off. docs/lint has a page for each rule. Exits with 1 if something was found.
    """
    from tykpy.commands.lint.lint import lint_all

    with no_traceback():
        reports = [report for path in bundles for report in lint_all(path)]
    if print_reports(reports, "found", output_format):
        raise click.exceptions.Exit(EXIT_ERROR)


def print_reports(reports: "Sequence[LintReport]", what: str, output_format: str = "console") -> int:
    """Print what was found, how much was looked at, and what was not; return the number of findings."""
    from tykpy.commands.lint.formats import FORMATS

    findings = [finding for report in reports for finding in report.findings]
    for text in FORMATS[output_format](findings):
        click.echo(text)
    count = len(findings)
    files = sum(report.files for report in reports)
    unchecked = dict.fromkeys(part for report in reports for part in report.unchecked)
    click.echo(f"{count or 'nothing'} {what} in {counted(files, 'Python file')}", err=True)
    click.echo(f"not checked: {'; '.join(unchecked)}", err=True)
    return count
