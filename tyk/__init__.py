"""What plugin authors import: decorators, the request, sessions, events, the running call, the store."""

from tyk.call import Call, current
from tyk.storage import Store, store

__all__ = ["Call", "Store", "current", "store"]
