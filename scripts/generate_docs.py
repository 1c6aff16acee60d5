"""Generates parts of the docs: docs/options.md, from the fields of `BrokerConfig`."""

import sys
from dataclasses import Field
from pathlib import Path
from typing import Any

from tykpy.broker.config import flag_of, groups, show_value, variable_of

TARGET = Path(__file__).parents[1] / "docs" / "options.md"
HEADING = """# Options of `tykpy broker`

Each option is a flag, an environment variable, and a key of the TOML file that `--config FILE` (or `TYKPY_CONFIG`)
names. Flags take precedence over the environment, and the environment over the file. `tykpy check-config` takes the
same options and shows the resulting values.

Sizes take the units KiB, MiB, GiB and TiB (1024) or KB, MB, GB and TB (1000), times ms, s, m, h and d, as in
`512MiB` and `1.5s`. A plain number is in bytes or seconds.

This file is generated from `broker/config.py` by `make docs`.
"""
TABLE = """
## {group}

| flag | environment | default | |
| --- | --- | --- | --- |
"""


def render() -> str:
    """Return the whole file."""
    return HEADING + "".join(TABLE.format(group=group) + "".join(map(_row, found)) for group, found in groups().items())


def _row(option: Field[Any]) -> str:
    return f"| `{flag_of(option.name)}` | `{variable_of(option.name)}` | {_default(option)} | {_text(option)} |\n"


def _default(option: Field[Any]) -> str:
    if "shown_default" in option.metadata:
        return str(option.metadata["shown_default"])
    return "none" if option.default is None else f"`{show_value(option, option.default)}`"


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
