"""Generates parts of the docs: docs/options.md, from the fields of `BrokerConfig`."""

import sys
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from tykpy.broker.config import flag_of, options

TARGET = Path(__file__).parents[1] / "docs" / "options.md"
HEADING = """# Options of `tykpy broker`

Each is a flag, an environment variable, and a key of the TOML file that `--config FILE` (or `TYKPY_CONFIG`) names; a
flag goes before the environment, the environment before the file. `tykpy check-config` takes the same options and
shows what they come to.

This file is generated from `broker/config.py` by `make docs`.

| flag | environment | default | |
| --- | --- | --- | --- |
"""


def render() -> str:
    """Return the whole file."""
    return HEADING + "".join(f"{_row(option)}\n" for option in options())


def _row(option: Field[Any]) -> str:
    return f"| `{flag_of(option.name)}` | `TYKPY_{option.name.upper()}` | {_default(option)} | {_text(option)} |"


def _default(option: Field[Any]) -> str:
    meta = option.metadata
    if "shown_default" in meta:
        return str(meta["shown_default"])
    value = None if option.default is MISSING else option.default
    if value is None:
        return "none"
    return f"`{value:04o}`" if meta.get("octal") else f"`{value}`"


def _text(option: Field[Any]) -> str:
    choices = option.metadata.get("choices")
    text = str(option.metadata["help"])
    return f"{text} One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else text


def main() -> int:
    """Write the file, or with `--check` return whether it is up to date."""
    if "--check" in sys.argv:
        return 0 if TARGET.read_text() == render() else 1
    TARGET.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
