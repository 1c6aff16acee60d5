"""Runs a command under the hardening of a systemd unit, without systemd as process 1.

What it applies of a unit: SystemCallFilter (with the sets of this machine's systemd), RestrictAddressFamilies,
ProtectSystem=strict, an empty CapabilityBoundingSet and NoNewPrivileges.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.root import ROOT

_READ_ONLY: Final = """
set -e
runtime=$1
shift
mount --bind "$runtime" "$runtime"
while read -r _ place type _; do
    case "$type" in proc|sysfs|tmpfs|devtmpfs|devpts|cgroup*|mqueue) continue ;; esac
    [ "$place" = "$runtime" ] || mount -o remount,bind,ro "$place"
done </proc/mounts
exec "$@"
"""


def hardened(unit: Path, runtime: Path) -> list[str]:
    """Return the prefix of a command that is to run under a unit's hardening, and may write to `runtime` only."""
    mounts = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _READ_ONLY, "sh", str(runtime)]
    privileges = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    filtered = [sys.executable, "-m", __name__, str(unit)]
    return [*mounts, *privileges, "env", f"PYTHONPATH={ROOT}", *filtered]


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the settings of [Service]: every name with the values of all its lines."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def allowed_calls(filters: list[str]) -> set[str]:
    """Return the system calls that lines of SystemCallFilter= allow, as systemd.exec(5) merges them."""
    sets = _call_sets()
    allowed = _expanded("@default", sets)
    for value in filters:
        forbids = value.startswith("~")
        for name in value.lstrip("~").split():
            calls = _expanded(name, sets)
            allowed = allowed - calls if forbids else allowed | calls
    return allowed


def _expanded(name: str, sets: dict[str, list[str]]) -> set[str]:
    if not name.startswith("@"):
        return {name}
    return {call for member in sets[name] for call in _expanded(member, sets)}


def _call_sets() -> dict[str, list[str]]:
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    sets: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        words = line.strip()
        if line.startswith("@"):
            name = words
        elif line.startswith(" ") and not words.startswith("#"):
            sets.setdefault(name, []).append(words)
    return sets


def load_filter(unit: Path) -> None:
    """Restrict this process, and all that it starts, to the system calls and address families of a unit."""
    import pyseccomp  # It needs the C library of systemd, without which the test is skipped.

    service = settings(unit)
    allowed = allowed_calls(service["SystemCallFilter"]) - {"socket"}
    seccomp = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(1))
    for name in sorted(allowed):
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
            seccomp.add_rule(pyseccomp.ALLOW, name)
    for family in service["RestrictAddressFamilies"][0].split():
        value = int(getattr(socket, family))
        seccomp.add_rule(pyseccomp.ALLOW, "socket", pyseccomp.Arg(0, pyseccomp.EQ, value))
    seccomp.load()


if __name__ == "__main__":
    load_filter(Path(sys.argv[1]))
    command = shutil.which(sys.argv[2])
    assert command is not None, sys.argv[2]
    os.execv(command, sys.argv[2:])
