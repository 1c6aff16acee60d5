"""The Go programs of tests/gateway, for a benchmark."""

import shutil

from tests.support.gateway import go_gateway
from tykpy.bench.errors import ServerError


def go_program(name: str) -> str:
    """Return the path of a program, built now if its sources changed; raises ServerError where there is no Go."""
    if shutil.which("go") is None:
        raise ServerError("Go is not on PATH, which builds the gateway; on Debian or Ubuntu: apt-get install golang")
    try:
        return go_gateway.go_program(name)
    except AssertionError as error:
        raise ServerError(f"{name} could not be built: {error}") from error
