"""Sessions as the gateway stores them: JSON with Tyk's names (user.SessionState), and messages for hooks."""

import json
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from tyk.proto.coprocess_session_state_pb2 import AccessSpec, SessionState

_STORED_AS: Final = {
    "metadata": "meta_data",
    "hmac_secret": "hmac_string",
    "hash": "hash_type",
}
"""Names of the JSON form that differ from those of the messages."""
_NOT_STORED: Final = frozenset(
    {"certificate", "max_query_depth", "key_id", "post_expiry_action", "post_expiry_grace_period"}
)


def session_of(stored: Mapping[str, Any], key: str) -> SessionState:
    """Return the session that is stored for a key. Raises ValueError, naming the field, if a value does not fit."""
    session = SessionState()
    _fill(session, stored, "")
    session.key_id = key
    return session


def stored_session(session: SessionState) -> dict[str, Any]:
    """Return a session in its JSON form."""
    return {name: value for name, value in _values(session).items() if name not in _NOT_STORED}


def as_returned(session: SessionState) -> SessionState:
    """Return a copy of the session of an auth hook, as the gateway takes it.

    Allowed URLs are doubled with empty entries, because Tyk makes a slice of that length and appends to it.
    """
    taken = SessionState()
    taken.CopyFrom(session)
    for name in _NOT_STORED:
        taken.ClearField(name)
    for right in taken.access_rights.values():
        allowed = list(right.allowed_urls)
        del right.allowed_urls[:]
        right.allowed_urls.extend([*(AccessSpec() for _ in allowed), *allowed])
    return taken


def _fill(message: Message, stored: Mapping[str, Any], place: str) -> None:
    for field in message.DESCRIPTOR.fields:
        name = _STORED_AS.get(field.name, field.name)
        value = stored.get(name)
        if value is None or field.name in _NOT_STORED:
            continue
        try:
            _set(message, field, value, f"{place}{name}.")
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{place}{name}: {error}") from error


def _set(message: Message, field: Any, value: Any, place: str) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        for key, item in value.items():
            if field.message_type.fields_by_name["value"].message_type is not None:
                _fill(target[key], item, f"{place}{key}.")
            else:
                target[key] = item if isinstance(item, str) else json.dumps(item)
    elif field.message_type is not None and field.is_repeated:
        for item in value:
            _fill(target.add(), item, place)
    elif field.message_type is not None:
        _fill(target, value, place)
    elif field.is_repeated:
        target.extend(value)
    else:
        setattr(message, field.name, value)


def _values(message: Message) -> dict[str, Any]:
    return {
        _STORED_AS.get(field.name, field.name): _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
    }


def _value(field: Any, value: Any) -> Any:
    if _is_map(field):
        return {key: _values(item) if isinstance(item, Message) else item for key, item in value.items()}
    if field.is_repeated:
        return [_values(item) if isinstance(item, Message) else item for item in value]
    return _values(value) if isinstance(value, Message) else value


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
