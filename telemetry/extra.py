"""Bound what a plugin passes to the logging module as `extra=`."""

import logging
import math
from typing import Final

from tykpy.telemetry.records import NO_FIELDS, Fields, error_text, shorten

MAX_FIELDS: Final = 20
MAX_KEY: Final = 64
MAX_VALUE: Final = 1_024
"""Longest key and longest value, in characters."""
_MAX_INT: Final = 2**63
_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})
"""Attributes of every record."""


def extra_of(record: logging.LogRecord) -> Fields:
    """Return the attributes that the caller has added to a record."""
    if len(record.__dict__) <= len(_STANDARD) and record.__dict__.keys() <= _STANDARD:
        return NO_FIELDS
    added = [key for key in record.__dict__ if key not in _STANDARD]
    return {shorten(str(key), MAX_KEY): _bounded(record.__dict__[key]) for key in added[:MAX_FIELDS]}


def _bounded(value: object) -> object:
    """Return a value that JSON has, as short as `MAX_VALUE`."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int and -_MAX_INT <= value < _MAX_INT:  # type: ignore[operator]
        return value
    if kind is float and math.isfinite(value):  # type: ignore[arg-type]
        return value
    try:
        return shorten(value if kind is str else repr(value), MAX_VALUE)  # type: ignore[arg-type]
    except BaseException as error:  # noqa: BLE001 (the value is of a plugin's class)
        return error_text(error)
