"""A gRPC server that answers every dispatch with the same bytes, also with replies that tykpy never sends."""

from tests.support.gateway.echo_dispatcher import EchoDispatcher
from tests.support.peers.grpc_server import EchoServer
from tykpy.broker.router.dispatch import Dispatch


class FixedDispatcher(EchoDispatcher):
    """Answers with `reply`."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self._reply = reply

    def dispatch(self, dispatch: Dispatch) -> None:
        """Answer."""
        dispatch.answer(dispatch.kind, self._reply)


class FixedServer(EchoServer):
    """`with FixedServer(reply) as server`."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.dispatcher = FixedDispatcher(reply)
