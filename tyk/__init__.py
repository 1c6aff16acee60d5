"""What plugin authors import: decorators, the request, sessions, events, the running call, the store, caches."""

from tyk.caching import CacheInfo, cache
from tyk.call import Call, current
from tyk.repeatable import now, random, time, uuid4
from tyk.storage import Store, store

__all__ = ["CacheInfo", "Call", "Store", "cache", "current", "now", "random", "store", "time", "uuid4"]
