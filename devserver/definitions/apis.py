"""Read the APIs that the gateway serves: definition files, with the hooks of their bundles."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tykpy.bundles.files.discovery import name_hash
from tykpy.devserver.definitions.api import Api
from tykpy.devserver.definitions.bundles import BundleFiles, middleware_of_hooks
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


def with_decorated_hooks(api: Api, bundles: Sequence[Mapping[str, Any]]) -> Api | None:
    """Return an API whose bundle is a `.py` file, and thus lists no hooks, with those that are decorated in the file.

    `bundles` are those that were loaded, as they describe themselves. A single one stands for any name. Returns None if
    the file has an error: nobody knows which hooks it would have, and without them requests would pass.
    """
    if not api.bundle or not api.uses_bundle or api.middleware.count:
        return api
    named = [one for one in bundles if name_hash(api.bundle) in one["hashes"]] or bundles
    if len(named) != 1 or not named[0]["name"].endswith(".py"):
        return api
    if named[0]["state"] != "loaded" or named[0]["faulty"]:
        return None
    return replace(api, middleware=middleware_of_hooks(named[0]["hooks"]))


def check_unique(api: Api, seen: dict[str, Api]) -> None:
    """Add an API to those that were `seen`. Raises DefinitionError if one of them has its ID or listen path."""
    for what in (f"the api_id {api.api_id}", f"the listen path {api.listen_path}"):
        if (other := seen.setdefault(what, api)) is not api:
            raise DefinitionError(f"{what} is that of {other.file} as well", api.file)
