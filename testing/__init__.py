"""pytest fixtures for bundles, and the types that tests annotate them with.

`plugin` is what pytest loads, in every run where tykpy is installed; everything else is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tyk.gateway.backend import MemoryStorage
    from tyk.gateway.testing import ManualClock, TriggeredEvent
    from tykpy.devserver.messages import GatewayRequest
    from tykpy.testing.calling import HookCaller
    from tykpy.testing.gateway import GatewayClient, GatewayReply
    from tykpy.testing.metrics import MetricValues
    from tykpy.testing.result import HookResult
else:
    _MODULES = {
        "GatewayClient": "tykpy.testing.gateway",
        "GatewayReply": "tykpy.testing.gateway",
        "GatewayRequest": "tykpy.devserver.messages",
        "HookCaller": "tykpy.testing.calling",
        "HookResult": "tykpy.testing.result",
        "ManualClock": "tyk.gateway.testing",
        "MemoryStorage": "tyk.gateway.backend",
        "MetricValues": "tykpy.testing.metrics",
        "TriggeredEvent": "tyk.gateway.testing",
    }

    def __getattr__(name: str) -> Any:
        """Import a type when it is asked for."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


__all__ = [
    "GatewayClient",
    "GatewayReply",
    "GatewayRequest",
    "HookCaller",
    "HookResult",
    "ManualClock",
    "MemoryStorage",
    "MetricValues",
    "TriggeredEvent",
]
