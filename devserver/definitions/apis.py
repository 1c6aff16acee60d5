"""Read the APIs that the gateway serves: definition files, with the hooks of their bundles."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from tykpy.devserver.definitions.api import Api
from tykpy.devserver.definitions.bundles import BundleFiles
from tykpy.devserver.definitions.classic import read_classic
from tykpy.devserver.definitions.oas import EXTENSION, read_oas
from tykpy.devserver.definitions.reading import JsonFile
from tykpy.devserver.errors import DefinitionError

_OAS: Final = "-oas"
"""Ends the names of OAS documents in a gateway's folder."""


def definition_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among paths, and those of their folders: all `.json` files, as in the gateway's `app_path`.

    A gateway writes an OAS API twice, as `NAME-oas.json` and in part as `NAME.json`: the first counts.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(path.glob("*.json"))
        documents = {one.name for one in found if one.stem.endswith(_OAS)}
        yield from (one for one in found if f"{one.stem}{_OAS}.json" not in documents)


def read_api(path: Path) -> Api:
    """Read one definition, classic or OAS. Raises DefinitionError."""
    return parse_api(JsonFile.read(path))


def parse_api(file: JsonFile) -> Api:
    """Parse a definition, classic or OAS. Raises DefinitionError."""
    is_oas = "openapi" in file.value or EXTENSION in file.value
    return read_oas(file) if is_oas else read_classic(file)


def with_bundle(api: Api, files: BundleFiles | None) -> Api:
    """Return an API with the hooks of its bundle in place of its own. Raises DevError."""
    if not api.bundle or not api.uses_bundle or files is None:
        return api
    middleware = files.middleware(api.bundle)
    return api if middleware is None else replace(api, middleware=middleware)


def check_unique(api: Api, seen: dict[str, Api]) -> None:
    """Add an API to those that were `seen`. Raises DefinitionError if one of them has its ID or listen path."""
    for what in (f"the api_id {api.api_id}", f"the listen path {api.listen_path}"):
        if (other := seen.setdefault(what, api)) is not api:
            raise DefinitionError(f"{what} is that of {other.file} as well", api.file)
