"""`TykGateway`, what plugins call; installed as `tyk.gateway` and as `gateway`, with one class behind both names.

A worker puts its storage, events and log in place with `install`.
"""

# By absolute names on purpose: this file is installed twice, and must find the same modules from both places.
from tyk.gateway.api import TykGateway
from tyk.gateway.backend import Backend, Storage, current, install, restore

__all__ = ["Backend", "Storage", "TykGateway", "current", "install", "restore"]
