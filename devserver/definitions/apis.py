"""Read the APIs that the gateway serves: definition files, with the hooks of their bundles."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tykpy.devserver.definitions.api import Api
from tykpy.devserver.definitions.bundles import BundleFiles
from tykpy.devserver.definitions.classic import read_classic
from tykpy.devserver.definitions.oas import EXTENSION, read_oas
from tykpy.devserver.definitions.reading import JsonFile
from tykpy.devserver.errors import DefinitionError


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


def check_apis(apis: Iterable[Api]) -> None:
    """Raise DefinitionError if two APIs have one ID or listen path."""
    seen: dict[str, Api] = {}
    for api in apis:
        for what in (f"the api_id {api.api_id}", f"the listen path {api.listen_path}"):
            if (other := seen.get(what)) is not None:
                raise DefinitionError(f"{what} is that of {other.file} as well", api.file)
            seen[what] = api
