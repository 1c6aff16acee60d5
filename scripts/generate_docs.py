"""Generates docs/options.md and docs/tykpy.schema.json from the fields of `BrokerConfig`."""

import json
import sys
from dataclasses import Field
from pathlib import Path
from typing import Any

from tykpy.broker.config import flag_of, groups, show_value, variable_of
from tykpy.commands.config.schema import schema

DOCS = Path(__file__).parents[1] / "docs"
OPTIONS = DOCS / "options.md"
SCHEMA = DOCS / "tykpy.schema.json"
HEADING = """# Options of `tykpy broker`

Each option is a flag, an environment variable, and a key of the TOML file that `--config FILE` (or `TYKPY_CONFIG`)
names. Flags take precedence over the environment, and the environment over the file. `tykpy config show` takes the
same options, and prints each with its value and where that comes from.

Sizes take the units KiB, MiB, GiB and TiB (1024) or KB, MB, GB and TB (1000), times ms, s, m, h and d, as in
`512MiB` and `1.5s`. A plain number is in bytes or seconds.

[tykpy.schema.json](tykpy.schema.json) is the JSON Schema of the file ([for editors](operations.md#configuration)).
It and this page are generated from `broker/config.py` by `make docs`.
"""
TABLE = """
## {group}

| flag | environment | default | |
| --- | --- | --- | --- |
"""


def render_options() -> str:
    """Return docs/options.md."""
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


def generated() -> dict[Path, str]:
    """Return what each generated file should contain."""
    return {OPTIONS: render_options(), SCHEMA: json.dumps(schema(), indent=2) + "\n"}


def main() -> int:
    """Write the files, or with `--check` return whether they are up to date."""
    if "--check" in sys.argv:
        return 0 if all(path.read_text() == text for path, text in generated().items()) else 1
    for path, text in generated().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
