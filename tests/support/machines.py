"""Several machines on one: network namespaces with an address each, joined by a bridge in a namespace of its own.

with Network() as network:
    machine = network.machine()
    subprocess.Popen([*machine.prefix, "redis-server", ...])
    machine.unplug()
"""

import itertools
import os
import shutil
import subprocess
from types import TracebackType
from typing import Final, NoReturn, Self

import pytest

SUBNET: Final = "10.83.0"
"""First three bytes of all addresses; no other network is reachable from the namespaces."""
_COMMAND_SECONDS: Final = 30
_numbers: Final = itertools.count()


class Machine:
    """A namespace with one address."""

    def __init__(self, switch: str, name: str, number: int) -> None:
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self.prefix = ["ip", "netns", "exec", name]
        """Prefix of commands that are to run on it."""
        self._switch = switch
        self._port = f"port{number}"
        _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", self._port, "netns", switch)
        _ip("-n", name, "address", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", switch, "link", "set", self._port, "master", "bridge")
        self.plug_in()

    def unplug(self) -> None:
        """Drop everything that it sends and receives; both sides notice nothing."""
        _ip("-n", self._switch, "link", "set", self._port, "nomaster")

    def plug_in(self) -> None:
        """Connect it to the others, again."""
        _ip("-n", self._switch, "link", "set", self._port, "master", "bridge")
        _ip("-n", self._switch, "link", "set", self._port, "up")


class Network:
    """Machines that reach each other and nothing else; all are removed at the end."""

    def __init__(self) -> None:
        self._name = f"tykpy-{os.getpid()}-{next(_numbers)}"
        self._switch = f"{self._name}-switch"
        self._namespaces: list[str] = []

    def machine(self) -> Machine:
        """Add a machine."""
        number = len(self._namespaces)
        return Machine(self._switch, self._add(f"{self._name}-{number}"), number)

    def _add(self, name: str) -> str:
        _ip("netns", "add", name)
        self._namespaces.append(name)
        return name

    def __enter__(self) -> Self:
        try:
            self._add(self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__(None, None, None)
            _unavailable(f"no network namespaces here (they need root and ip): {error}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "delete", name], check=False, timeout=_COMMAND_SECONDS)


def _ip(*arguments: str) -> None:
    command = [shutil.which("ip") or "ip", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=_COMMAND_SECONDS)


def _unavailable(why: str) -> NoReturn:
    if os.environ.get("CI") == "true" and os.geteuid() == 0 and shutil.which("ip"):
        pytest.fail(why)
    pytest.skip(why)
