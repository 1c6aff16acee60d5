"""The command `tykpy new`: parses, and calls one function."""

from pathlib import Path

import click

from tykpy.commands.terminal import harmless, no_traceback

HOOKS = ("pre", "auth", "post-key-auth", "post", "response", "event")
"""What `--hooks` takes, in the order in which the gateway calls them."""


def _chosen(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """Return the hooks of a list with commas, in the gateway's order."""
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in HOOKS:
            raise click.BadParameter(f"there is no hook {name!r}; choose from {', '.join(HOOKS)}")
    return tuple(name for name in HOOKS if name in names)


@click.command(short_help="Create a bundle with hooks, a test and settings.")
@click.argument("name", required=False, default="")
@click.option(
    "--hooks",
    callback=_chosen,
    default="pre",
    show_default=True,
    metavar="HOOK,...",
    help=f"The hooks to begin with: {', '.join(HOOKS)}.",
)
@click.option(
    "--from-openapi",
    "document",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="OpenAPI or Tyk OAS document (JSON or YAML) to take the name and the paths from.",
)
def new(name: str, hooks: tuple[str, ...], document: Path | None) -> None:
    """Create a bundle in the new folder NAME: hooks, a test, and settings for type checker, linter and editor.

    With --from-openapi the bundle knows the operations of the API, and a Pre hook tells them to the upstream; NAME may
    be left out then.
    """
    from tykpy.commands.new.create import create

    with no_traceback():
        if not name and document is None:
            raise click.UsageError("give the bundle a NAME, or --from-openapi FILE to take it from")
        created = create(Path(), name, hooks, document)
    click.echo(f"created {harmless(created.folder)}:")
    for file in created.files:
        click.echo(f"  {harmless(file)}")
    click.echo(f"\nnext: cd {harmless(created.folder)}, then read README.md, or right away:")
    for line in created.next_steps:
        click.echo(f"  {harmless(line)}")
