"""Calls through the Go client of tests/gateway (net/rpc over ugorji/go's MessagePack codec)."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.broker import PATIENCE
from tests.support.gateway.go_gateway import go_program


class Outcome(NamedTuple):
    """How one call ended."""

    result: Any
    error: str


def pipelined(socket: Path, calls: list[tuple[str, list[Any]]]) -> list[Outcome]:
    """Send all calls at once on one connection; return their outcomes in order."""
    text = json.dumps([{"method": method, "params": tagged(params)} for method, params in calls])
    done = subprocess.run(
        [go_program("msgpackclient"), str(socket)],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Outcome(untagged(entry["result"]), entry["error"]) for entry in json.loads(done.stdout)]


def tagged(value: Any) -> Any:
    """Encode types that JSON does not have as maps of one entry."""
    match value:
        case bool() | None | str():
            return value
        case int():
            return {"$int": str(value)}
        case float():
            return {"$double": value}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case list():
            return [tagged(element) for element in value]
    return {key: tagged(element) for key, element in value.items()}


def untagged(value: Any) -> Any:
    """Decode such maps."""
    match value:
        case {"$int": text}:
            return int(text)
        case {"$double": number}:
            return float(number)
        case {"$bytes": text}:
            return base64.b64decode(text)
        case list():
            return [untagged(element) for element in value]
        case dict():
            return {key: untagged(element) for key, element in value.items()}
    return value
