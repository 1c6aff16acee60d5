"""The commands `tykpy bundle ...`: each parses, and calls one function."""

from pathlib import Path

import click

from tykpy.commands.lint.command import print_reports
from tykpy.commands.terminal import EXIT_ERROR, no_traceback, table
from tykpy.telemetry.records import counted

_path = click.Path(path_type=Path)
_public_key = click.option(
    "--public-key", type=_path, help="PEM file (PKCS#1 or PKIX): the signature has to be by its owner."
)
_chain = click.option("--chain", is_flag=True, help='One entry "*" per hook type: one call instead of one per hook.')


@click.group()
def bundle() -> None:
    """Build, sign, verify, list and convert bundles."""


@bundle.command(short_help="Pack a folder into a ZIP, and sign it.")
@click.argument("folder", type=_path)
@click.option("-o", "--output", type=_path, help="The ZIP to write.  [default: FOLDER.zip, here]")
@click.option("-k", "--key", type=_path, help="PEM file (PKCS#1 or PKCS#8) with the RSA private key to sign with.")
@click.option(
    "--compress", is_flag=True, help="Compress the entries; the bytes then also depend on the version of zlib."
)
@_chain
def build(folder: Path, output: Path | None, key: Path | None, compress: bool, chain: bool) -> None:
    """Pack FOLDER into a ZIP, with file list, checksum and signature; the same files give the same bytes."""
    from tykpy.commands.bundle.build import build as run

    with no_traceback():
        built = run(folder, output or Path(f"{folder.resolve().name}.zip"), key, compress=compress, chain=chain)
    for remark in built.remarks:
        click.echo(f"note: {remark}", err=True)
    signed = "signed" if built.signed else "not signed"
    files = counted(len(built.files), "file")
    click.echo(f"{built.output}: {files}, checksum {built.checksum}, {signed}")


@bundle.command(short_help="Check files, checksum and signature of a bundle.")
@click.argument("bundle_path", metavar="BUNDLE", type=_path)
@_public_key
def verify(bundle_path: Path, public_key: Path | None) -> None:
    """Check BUNDLE, a ZIP or a folder: entries, files, checksum and signature. Exits with 1 if something is wrong."""
    from tykpy.commands.bundle.verify import verify as run

    with no_traceback():
        checks = list(run(bundle_path, public_key))
    for check in checks:
        click.echo(str(check))
    if any(check.passed is False for check in checks):
        raise click.exceptions.Exit(EXIT_ERROR)


@bundle.command("list", short_help="Show what is in a bundle.")
@click.argument("bundle_path", metavar="BUNDLE", type=_path)
def list_(bundle_path: Path) -> None:
    """Show what is in BUNDLE, a ZIP or a folder: driver, seal, files and hooks."""
    from tykpy.commands.bundle.listing import list_bundle

    with no_traceback():
        listing = list_bundle(bundle_path)
    for name, value in listing.facts:
        click.echo(f"{name}: {value}")
    for heading, rows in ((("FILE", "SIZE"), listing.files), (("TYPE", "HOOK", ""), listing.hooks)):
        click.echo()
        table(heading, rows)


@bundle.command(short_help="Convert a bundle for embedded Python.")
@click.argument("source", type=_path)
@click.argument("output", type=_path, required=False)
@_chain
def convert(source: Path, output: Path | None, chain: bool) -> None:
    """Convert SOURCE, a bundle for embedded Python, to `driver: grpc`, and report what will be different.

    OUTPUT is a ZIP if its name ends so, else a new folder; without it nothing is written.
    """
    from tykpy.commands.bundle.convert import convert as run

    with no_traceback():
        report = run(source, output, chain=chain)
    print_reports([report], "will be different, or needs a look")
    if output is None:
        click.echo("nothing is written; give OUTPUT for the converted bundle", err=True)
    else:
        click.echo(f"{output}: driver grpc; if the API definition names a driver, change it there too")
