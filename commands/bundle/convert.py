"""`tykpy bundle convert`: an embedded-Python bundle for `driver: grpc`, and what will be different with it.

The code stays as it is: what needs a look is told with its file and line.
"""

from pathlib import Path

from commands.bundle.build import read_files
from commands.bundle.manifest import as_bytes, read_fields, seal
from commands.bundle.packing import write_folder, write_zip
from commands.bundle.sources import files_below, manifest_of, opened
from commands.errors import CommandError
from commands.lint.differences import differences_of
from commands.lint.findings import Report
from commands.lint.sources import read_sources
from workers.errors import ArchiveError


def convert(source: Path, output: Path | None = None) -> Report:
    """Write the converted bundle to `output`, a ZIP or a new folder by its name; None: only look.

    The files keep their bytes, so checksum and signature stay right. Raises CommandError.
    """
    try:
        with opened(source) as root:
            sources = read_sources(root, manifest_of(root, source), str(source))
            report = sources.report(differences_of(sources, str(source)))
            if output is not None:
                _write(root, output)
    except ArchiveError as error:
        raise CommandError(f"{source}: {error.message}") from error
    return report


def _write(root: Path, output: Path) -> None:
    if output.exists():
        raise CommandError(f"{output} is there already")
    fields = read_fields(root)
    there = list(files_below(root))
    listed = read_files(root, fields.get("file_list") or there)
    fields["custom_middleware"] = {**fields["custom_middleware"], "driver": "grpc"}
    manifest = as_bytes(seal(fields, listed, None))
    if output.suffix == ".zip":
        write_zip(output, manifest, listed)
    else:
        write_folder(output, manifest, {**read_files(root, there), **listed})
