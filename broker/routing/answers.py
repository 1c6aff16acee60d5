"""What a worker answered, checked like anything from outside: plugin code shares its memory."""

from typing import Any

from broker.errors import DispatchError
from ipc.channel import Answer
from ipc.frame import Status, unpack_frame


def body_of(answer: Answer, kind: int) -> Any:
    """The body of the answer to a dispatch of this kind.

    Raises DispatchError: what the worker says went wrong, or that its answer makes no sense.
    """
    try:
        found, _, body = unpack_frame(answer.payload)
        if answer.is_error:
            status, message = body
            raise DispatchError(Status(status), str(message))
    except (TypeError, ValueError) as error:
        raise DispatchError(Status.INTERNAL, f"the worker's answer does not decode: {error}") from error
    if found != kind or not isinstance(body, bytes):
        raise DispatchError(Status.INTERNAL, f"the worker answered with kind {found} where {kind} was asked")
    return body
