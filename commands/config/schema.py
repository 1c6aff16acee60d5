"""The JSON Schema of `tykpy.toml`, from the fields of `BrokerConfig`: editors complete and check the file with it."""

from dataclasses import Field
from typing import Any, Final

from tykpy.broker.config import options
from tykpy.broker.units import SIZE_PATTERN, TIME_PATTERN

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "array": (list,), "boolean": (bool,), "integer": (int,), "number": (int, float), "string": (str,),
}  # fmt: skip
_PATTERNS: Final = {"bytes": SIZE_PATTERN, "seconds": TIME_PATTERN, "mode": "^(0o?)?[0-7]{1,3}$"}


def schema() -> dict[str, Any]:
    """Return the schema. Words of a key may be joined by `-` or `_`."""
    found = {option.name.replace("_", "-"): _property(option) for option in options()}
    aliases = {key.replace("-", "_"): {"$ref": f"#/properties/{key}"} for key in found if "-" in key}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "tykpy.toml",
        "description": "Options of `tykpy broker --config FILE`.",
        "type": "object",
        "additionalProperties": False,
        "properties": found | aliases,
    }


def types_of(option: Field[Any]) -> list[str]:
    """Return the types that a value may have in the file, as JSON Schema calls them."""
    default, unit = option.default, option.metadata.get("unit")
    if isinstance(default, tuple):
        return ["array"]
    if isinstance(default, bool):
        return ["boolean"]
    if unit is not None:
        return ["integer" if option.type is int else "number", "string"]
    if "bounds" not in option.metadata:
        return ["string"]
    return ["integer", "string"] if option.metadata.get("octal") or isinstance(default, str) else ["integer"]


def is_of_type(option: Field[Any], value: Any) -> bool:
    """Return whether a value from the file has a type that the schema allows."""
    expected = tuple(found for name in types_of(option) for found in _TYPES[name])
    if isinstance(value, bool):
        return bool in expected
    if isinstance(value, list):
        return list in expected and all(isinstance(one, str) for one in value)
    return isinstance(value, expected)


def _property(option: Field[Any]) -> dict[str, Any]:
    meta, default = option.metadata, option.default
    found: dict[str, Any] = {"description": meta["help"]}
    if default is not None and default != () and "shown_default" not in meta:
        found["default"] = f"{default:04o}" if meta.get("octal") else default
    types = types_of(option)
    if types == ["array"]:
        return {**found, "type": "array", "items": {"type": "string"}}
    if "bounds" not in meta:
        return {**found, "type": types[0], **({"enum": list(meta["choices"])} if "choices" in meta else {})}
    low, high = meta["bounds"]
    value: dict[str, Any] = {"minimum": low, "maximum": high}
    if meta.get("octal") or "unit" in meta:
        # Bounds apply to numbers only, the pattern to strings only.
        value = {"type": types, **value, "pattern": _PATTERNS[meta.get("unit", "mode")]}
    else:
        value = {"type": "integer", **value}
    if isinstance(default, str) or not low <= default <= high:
        return {**found, "anyOf": [{"const": default}, value]}
    return {**found, **value}
