"""Lint one bundle, or each bundle of a folder."""

from pathlib import Path

from tykpy.bundles.files.discovery import candidates, is_other_file, part_folders
from tykpy.bundles.files.manifest import MANIFEST_NAME, Manifest
from tykpy.commands.bundle.reading import manifest_of, opened
from tykpy.commands.errors import CommandError
from tykpy.commands.lint.findings import Finding, LintReport, not_ignored
from tykpy.commands.lint.rules import findings_of, lint_rules
from tykpy.commands.lint.several import Part, together
from tykpy.commands.lint.sources import read_sources


def lint_all(path: Path) -> list[LintReport]:
    """Lint a bundle, or each bundle of a folder that has many, such as a gateway's.

    Other files in such a folder are skipped; a bundle that cannot be read is a finding. Raises CommandError if there
    is no bundle.
    """
    if not path.is_dir() or (path / MANIFEST_NAME).is_file():
        return [lint(path)]
    found = [_bundles_at(candidate.path) for candidate in candidates(path)]
    if not any(found):
        raise CommandError(f"{path}: there is no {MANIFEST_NAME} in it, and no bundle")
    return [report for bundles in found for report in _lint_together(bundles)]


def _bundles_at(path: Path) -> list[Path]:
    """Return the bundle at a path, the parts of a folder that stands for several, or nothing."""
    if path.is_file():
        return [] if path.suffix == ".py" and _is_other_file(path) else [path]
    return [path] if (path / MANIFEST_NAME).is_file() else part_folders(path)[0]


def _lint_together(bundles: list[Path]) -> list[LintReport]:
    """Lint one bundle, or the several of one API and what is between them."""
    reports = [_lint_one_of_many(bundle) for bundle in bundles]
    if len(bundles) > 1:
        parts = [Part(bundle, manifest) for bundle in bundles if (manifest := _sound_manifest(bundle)) is not None]
        found = [finding for part, conflicts in together(parts) for finding in not_ignored(part.path, conflicts)]
        reports.append(LintReport(found, 0, ()))
    return reports


def _sound_manifest(bundle: Path) -> Manifest | None:
    try:
        return manifest_of(bundle, bundle)
    except CommandError:
        return None  # a finding of the bundle itself


def _is_other_file(path: Path) -> bool:
    try:
        return is_other_file(path, path.read_bytes())
    except (SyntaxError, ValueError):
        return False  # what is wrong with it is a finding


def _lint_one_of_many(bundle: Path) -> LintReport:
    try:
        return lint(bundle)
    except CommandError as error:
        return LintReport(not_ignored(bundle, [Finding(str(bundle), 0, 0, "bundle", str(error))]), 0, ())


def lint(bundle: Path) -> LintReport:
    """Lint a folder, a ZIP, or a single `.py` file. Raises CommandError if there is no bundle."""
    if bundle.suffix == ".py" and bundle.is_file():
        return _report(bundle, Manifest(file_list=(bundle.name,)), bundle)
    with opened(bundle) as root:
        return _report(root, manifest_of(root, bundle), bundle)


def _report(root: Path, manifest: Manifest, bundle: Path) -> LintReport:
    sources = read_sources(root, manifest, str(bundle))
    return sources.report(not_ignored(bundle, findings_of(sources, str(bundle), lint_rules)))
