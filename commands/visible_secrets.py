"""Secrets that were given where others can read them."""

from collections.abc import Iterator, Mapping
from typing import Any

from tykpy.broker.config import flag_of, options
from tykpy.redisclient.address import redact


def exposures(on_command_line: Mapping[str, Any]) -> Iterator[str]:
    """What to say of the options that were given as flags: argv is there for every user of the machine to read."""
    for option in options():
        value = on_command_line.get(option.name)
        secret = option.metadata.get("secret")
        if value and (secret == "all" or (secret == "login" and redact(value) != value)):
            flag, variable = flag_of(option.name), f"TYKPY_{option.name.upper()}"
            instead = f"give it as {variable}, or in the file of --config"
            yield f"{flag} shows a secret to every user of this machine: {instead}"
