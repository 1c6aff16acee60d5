"""What plugin authors import: decorators, the request, sessions, events, the running call, the gateway's services."""

from tyk.call import Call, current

__all__ = ["Call", "current"]
