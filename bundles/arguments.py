"""The number of a hook's arguments, which chooses its shape. `tykpy lint` judges code that it only reads by it, too."""

from collections.abc import Iterable
from inspect import Parameter
from typing import Final

from tykpy.bundles.shapes import SHAPES, Shape
from tykpy.telemetry.records import counted

_ALLOWED: Final = ", ".join(f"({shape.signature})" for shape in SHAPES.values() if not shape.is_event)
_ALLOWED_EVENT: Final = "(event, spec)"


def shape_for(parameters: Iterable[Parameter], roles: tuple[bool, ...]) -> Shape:
    """Choose the shape as the gateway does: by the number of positional arguments, including those with a default.

    If this number fits no shape, the number without defaults counts. `roles`: whether the shapes of events (True), of
    requests (False), or both are possible. Raises ValueError, whose message follows the hook's name.
    """
    allowed = " or ".join(_ALLOWED_EVENT if is_event else _ALLOWED for is_event in roles)
    fewest, most = _positional(list(parameters), allowed)
    for count in (most, fewest):
        shape = SHAPES.get(count)
        if shape is not None and shape.is_event in roles:
            return shape
    raise ValueError(f"takes {counted(most, 'argument')}; allowed are {allowed}")


def _positional(parameters: list[Parameter], allowed: str) -> tuple[int, int]:
    """Count the positional arguments without a default, and all of them. Raises ValueError."""
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if required:
        names = ", ".join(p.name for p in required)
        raise ValueError(f"has arguments that must be given by name ({names}); hooks are called by position")
    if not positional and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise ValueError(
            f"takes *args, which does not say what it wants: name its arguments ({allowed}), "
            "or use functools.wraps in the decorator around it"
        )
    return sum(p.default is p.empty for p in positional), len(positional)
