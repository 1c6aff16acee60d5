"""A dispatcher for tests of front ends: the object's bytes say how it answers: at once, later, with an error, never."""

import asyncio

from tykpy.broker.errors import DispatchError
from tykpy.broker.router.dispatch import Dispatch
from tykpy.ipc.frame import Status

FAIL = b"fail:"
"""`fail:NOT_FOUND:text` fails with that status and text."""
HOLD = b"hold:"
"""Answered when `release` is called."""
LATER = b"later:"
"""Answered in the next turn of the event loop, like a worker's answer."""


class EchoDispatcher:
    """Echoes what it gets, and remembers what happened."""

    def __init__(self) -> None:
        self.dispatched: list[Dispatch] = []
        self.cancelled: list[Dispatch] = []
        self.held: list[Dispatch] = []

    def dispatch(self, dispatch: Dispatch) -> None:
        """Answer as the bytes say."""
        self.dispatched.append(dispatch)
        body = dispatch.encoded
        if body.startswith(FAIL):
            _, status, text = body.split(b":", 2)
            dispatch.fail(DispatchError(Status[status.decode()], text.decode()))
        elif body.startswith(HOLD):
            self.held.append(dispatch)
        elif body.startswith(LATER):
            self.held.append(dispatch)
            asyncio.get_running_loop().call_soon(self._release_one, dispatch)
        else:
            dispatch.answer(dispatch.kind, body)

    def cancel(self, dispatch: Dispatch) -> None:
        """Forget it."""
        self.cancelled.append(dispatch)
        if dispatch in self.held:
            self.held.remove(dispatch)

    def release(self) -> None:
        """Answer all dispatches that are held."""
        for dispatch in list(self.held):
            self._release_one(dispatch)

    def _release_one(self, dispatch: Dispatch) -> None:
        if dispatch in self.held:
            self.held.remove(dispatch)
            dispatch.answer(dispatch.kind, dispatch.encoded)
