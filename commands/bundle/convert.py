"""`tykpy bundle convert`: convert an embedded-Python bundle to `driver: grpc`, and report what will be different.

The code stays as it is; what needs a look is reported with file and line.
"""

from pathlib import Path
from typing import Any

from tykpy.bundles.files.manifest import MANIFEST_NAME
from tykpy.commands.bundle.build import read_files
from tykpy.commands.bundle.chain import chain_hooks
from tykpy.commands.bundle.reading import manifest_of, opened, packable
from tykpy.commands.bundle.writing import as_bytes, read_fields, seal, write_folder, write_zip
from tykpy.commands.errors import CommandError
from tykpy.commands.lint.differences import difference_rules
from tykpy.commands.lint.findings import Finding, LintReport, ignored_rules
from tykpy.commands.lint.rules import findings_of
from tykpy.commands.lint.sources import read_sources


def convert(source: Path, output: Path | None = None, *, chain: bool = False) -> LintReport:
    """Write the converted bundle to `output`, a ZIP or a new folder depending on its name; None: only report.

    With `chain`, its hooks of one type are called together. The files keep their bytes, so checksum and signature stay
    valid. Raises CommandError.
    """
    ignored = ignored_rules(source)
    with opened(source) as root:
        sources = read_sources(root, manifest_of(root, source), str(source))
        findings = findings_of(sources, str(source), difference_rules)
        if output is not None or chain:
            fields = _for_grpc(root)
            if chain:
                chained = chain_hooks(fields, sources, str(source))
                fields = chained.fields
                place = f"{source}/{MANIFEST_NAME}"
                findings += [Finding(place, 0, 0, "chain", change) for change in chained.changes]
            if output is not None:
                _write(root, output, fields)
        return sources.report([finding for finding in findings if finding.rule not in ignored])


def _for_grpc(root: Path) -> dict[str, Any]:
    fields = read_fields(root)
    return {**fields, "custom_middleware": {**fields["custom_middleware"], "driver": "grpc"}}


def _write(root: Path, output: Path, fields: dict[str, Any]) -> None:
    if output.exists():
        raise CommandError(f"{output} is there already")
    there = packable(root)
    listed = read_files(root, fields.get("file_list") or there)
    manifest = as_bytes(seal(fields, listed, None))
    if output.suffix == ".zip":
        write_zip(output, manifest, listed)
    else:
        write_folder(output, manifest, {**read_files(root, there), **listed})
