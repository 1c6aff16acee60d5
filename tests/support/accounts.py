"""Programs run as other users, for tests that are run by root.

The interpreter or this checkout may lie below a folder that is root's alone (a home). Programs then see another
folder in its place, with nothing but the two in it: in a mount namespace of their own, so that nobody else sees it.
"""

import functools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.root import ROOT

OTHER_USER: Final = 54_321
"""A user without a name or files."""
_REVEAL: Final = """
set -e
aside=$(mktemp -d)
closed=$1 count=$2
shift 2
at=0
for path in "$@"; do
    at=$((at + 1))
    [ $at -le $count ] || break
    mkdir "$aside/$at"
    mount --bind "$path" "$aside/$at"
done
mount -t tmpfs -o mode=755 none "$closed"
at=0
while [ $at -lt $count ]; do
    at=$((at + 1))
    mkdir -p "$1"
    mount --bind "$aside/$at" "$1"
    umount "$aside/$at"
    rmdir "$aside/$at"
    shift
done
rmdir "$aside"
exec "$@"
"""


def needs_root() -> None:
    """Skip the test where it cannot run programs as other users."""
    if os.geteuid() != 0:
        pytest.skip("only root can run programs as other users")
    try:
        subprocess.run(reachable(["true"]), check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"Python lies where other users cannot get, and cannot be shown to them here: {error}")


def reachable(command: Sequence[str]) -> list[str]:
    """Return the command, with Python and this checkout in places that every user can reach."""
    closed = _closed_folder()
    if closed is None:
        return list(command)
    paths = [str(path) for path in (Path(sys.base_prefix), ROOT) if path.is_relative_to(closed)]
    unshare = shutil.which("unshare") or "unshare"
    reveal = [unshare, "--mount", "--propagation", "private", "sh", "-c", _REVEAL, "sh"]
    return [*reveal, str(closed), str(len(paths)), *paths, *command]


def run_as(user: int, command: Sequence[str], groups: Sequence[int] = ()) -> str:
    """Run a command as a user in these supplementary groups; returns what it prints."""
    more = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", *more, *command]
    done = subprocess.run(reachable(become), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@functools.cache
def _closed_folder() -> Path | None:
    """Return the outermost folder above Python or the checkout that other users cannot pass."""
    for path in (Path(sys.base_prefix), ROOT):
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                return folder
    return None
