"""Mask what looks secret in texts that are shown on screens: values of variables, headers, messages."""

import re
from dataclasses import dataclass, replace
from typing import Final, Self

MASK: Final = "•••"
_NAMES: Final = (
    r"[\w.-]*(?:passw(?:or)?d|passwd|secret|token|authori[sz]ation|cookie|api[_-]?key|credential|private[_-]?key|"
    r"client[_-]?cert|session[_-]?id)[\w.-]*"
)
_SECRET_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_IN_MAPPING: Final = re.compile(rf"""(['"]{_NAMES}['"]\s*:\s*b?)(['"])(?:\\.|(?!\2).)*(\2|$)""", re.IGNORECASE)
"""`'Authorization': 'Bearer ...'` in the text of a mapping; the text may be cut."""
_IN_PAIR: Final = re.compile(rf"""(key:\s*"{_NAMES}"\s*value:\s*)"(?:\\.|[^"\\])*("|$)""", re.IGNORECASE)
"""An entry of a map in the text of a protobuf message."""
_IN_FIELD: Final = re.compile(rf"""(\b{_NAMES}:\s*)"(?:\\.|[^"\\])*("|$)""", re.IGNORECASE)
"""A field in the text of a protobuf message."""
_IN_QUERY: Final = re.compile(rf"([?&]{_NAMES}=)[^&#\s'\"]+", re.IGNORECASE)
_LAST_KEY: Final = re.compile(r"""\[(['"])((?:(?!\1).)*)\1\]$""")
_BEARER: Final = re.compile(r"\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a variable, header or field of this name probably holds a secret."""
    return _SECRET_NAME.fullmatch(name) is not None


def is_secret_path(path: str) -> bool:
    """Whether the path of a change ends in such a name: `session.hmac_secret`, `request.headers['Cookie']`."""
    key = _LAST_KEY.search(path)
    return is_secret(path.rpartition(".")[2] if key is None else key[2])


def masked(text: str) -> str:
    """Replace the values of names that look secret."""
    text = _IN_MAPPING.sub(rf"\1\2{MASK}\3", text)
    text = _IN_PAIR.sub(rf'\1"{MASK}\2', text)
    text = _IN_FIELD.sub(rf'\1"{MASK}\2', text)
    text = _IN_QUERY.sub(rf"\1{MASK}", text)
    return _BEARER.sub(rf"\1{MASK}", text)


@dataclass(frozen=True, slots=True)
class Masker:
    """Masks what one request must not show."""

    secrets: tuple[str, ...] = ()
    """Texts that are masked wherever they occur. A text comes before those that it starts with."""
    by_name: bool = True
    """Whether values of names that look secret are masked, too."""

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return masked(text) if self.by_name else text

    def value(self, name: str, text: str) -> str:
        """Return the value of a header or variable without secrets."""
        return MASK if self.by_name and text and is_secret(name) else self.text(text)

    def value_at(self, path: str, text: str) -> str:
        """Return the value at the path of a change without secrets."""
        return MASK if self.by_name and text and is_secret_path(path) else self.text(text)

    def for_prints(self) -> Self:
        """Return what masks lines that plugin code prints: secrets of the request, and nothing by guess."""
        return replace(self, by_name=False)


NOTHING_MASKED: Final = Masker(by_name=False)
