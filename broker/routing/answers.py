"""What a worker answered, checked like anything from outside: plugin code shares its memory."""

from broker.errors import DispatchError
from ipc.channel import Answer
from ipc.frame import Status, unpack_answer, unpack_error


def body_of(answer: Answer, kind: int) -> bytes:
    """The body of the answer to a dispatch of this kind.

    Raises DispatchError: what the worker says went wrong, or that its answer makes no sense.
    """
    try:
        if answer.is_error:
            status, message = unpack_error(answer.payload)
            raise DispatchError(Status(status), message)
        found, body = unpack_answer(answer.payload)
    except ValueError as error:
        raise DispatchError(Status.INTERNAL, f"the worker's answer does not decode: {error}") from error
    if found != kind:
        raise DispatchError(Status.INTERNAL, f"the worker answered with kind {found} where {kind} was asked")
    return body
