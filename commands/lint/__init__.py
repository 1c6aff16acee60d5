"""`tykpy lint`: finds, without running it, what the gateway will ignore in a bundle's code."""

from pathlib import Path

from commands.bundle.sources import manifest_of, opened
from commands.errors import CommandError
from commands.lint.findings import Report
from commands.lint.rules import findings_of
from commands.lint.sources import read_sources
from workers.errors import ArchiveError
from workers.manifest import Manifest


def lint(bundle: Path) -> Report:
    """Look at a folder, a ZIP, or a single `.py` file. Raises CommandError where there is no bundle."""
    if bundle.suffix == ".py" and bundle.is_file():
        return _report(bundle, Manifest(file_list=(bundle.name,)), bundle)
    try:
        with opened(bundle) as root:
            return _report(root, manifest_of(root, bundle), bundle)
    except ArchiveError as error:
        raise CommandError(f"{bundle}: {error.message}") from error


def _report(root: Path, manifest: Manifest, bundle: Path) -> Report:
    sources = read_sources(root, manifest, str(bundle))
    return sources.report(findings_of(sources, str(bundle)))
