"""The privileges the broker gives up once it has taken its sockets, and before it starts a worker.

With --user and --group it becomes another user for good, and so does everything that it starts: workers, and the
program that replaces it in an upgrade.
"""

import contextlib
import logging
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import BrokerError, ConfigError
from tykpy.broker.net.access import group_id, user_id
from tykpy.ipc.prctl import Option, prctl

log = logging.getLogger("tykpy.access")

ROOT: Final = 0
PROGRAM: Final = Path(__file__).parents[1]
"""Where workers are imported from."""


class TargetUser(NamedTuple):
    """The user that --user and --group name."""

    uid: int
    gid: int
    name: str = ""
    """Empty for a number without a name; then there are no other groups and no home either."""
    home: str = ""

    @classmethod
    def wanted(cls, config: BrokerConfig) -> "TargetUser | None":
        """Return the user that the options name, or None. Raises ConfigError."""
        if config.user is None:
            return None
        uid = user_id(config.user)
        if uid == ROOT:
            raise ConfigError(f"--user {config.user}: is root, whom it is to do without")
        gid = group_id(config.group) if config.group is not None else None
        try:
            known = pwd.getpwuid(uid)
        except KeyError:
            if gid is None:
                raise ConfigError(f"--user {config.user} has no name on this machine, so it needs --group") from None
            return cls(uid, gid)
        return cls(uid, known.pw_gid if gid is None else gid, known.pw_name, known.pw_dir)

    @property
    def is_ours(self) -> bool:
        """Whether the process runs as this user already."""
        return os.getresuid() == (self.uid,) * 3

    def check(self) -> None:
        """Raise ConfigError if the process cannot become this user."""
        if os.geteuid() != ROOT and not self.is_ours:
            raise ConfigError(f"--user {self.name or self.uid}: only root can become another user")

    def become(self) -> None:
        """Become this user for good. Raises BrokerError."""
        self.check()
        if not self.is_ours:
            # Groups first: without root's powers they could not be changed any more.
            if self.name:
                os.initgroups(self.name, self.gid)
            else:
                os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            if self.name:
                os.environ.update(HOME=self.home, USER=self.name, LOGNAME=self.name)
        self._verify()

    def _verify(self) -> None:
        if os.getresuid() != (self.uid,) * 3 or os.getresgid() != (self.gid,) * 3:
            raise BrokerError(f"we are not user {self.uid} and group {self.gid}, although nothing failed")
        if ROOT in os.getgroups() and self.gid != ROOT:
            raise BrokerError(f"user {self.name or self.uid} is still in root's group")
        _expect_refusal(os.setuid)
        if self.gid != ROOT:
            _expect_refusal(os.setgid)


def assume(config: BrokerConfig) -> None:
    """Become the user that the options name. Raises BrokerError."""
    identity = TargetUser.wanted(config)
    if identity is None:
        if os.geteuid() == ROOT:
            log.warning("plugins run as root; --user gives them a user that may do less")
        return
    identity.become()
    # A program that replaces us has another default, being no root any more.
    os.environ["TYKPY_RUNTIME_DIR"] = str(config.runtime_dir)
    _check_files(config, identity.name or str(identity.uid))
    log.info("running as user %s, group %d", identity.name or identity.uid, identity.gid)


def _expect_refusal(become: Callable[[int], None]) -> None:
    with contextlib.suppress(PermissionError):
        become(ROOT)
        raise BrokerError("we can become root again, although we are another user")


def _check_files(config: BrokerConfig, name: str) -> None:
    """Check what workers need, now and at the next reload: one error here instead of one from each worker."""
    needed = (Path(sys.executable), PROGRAM, config.bundles, config.public_key)
    for path in filter(None, needed):
        if not _is_readable(path):
            closed = _closed_folder(path)
            where = f": user {name} may not enter {closed}" if closed else ""
            raise ConfigError(f"--user {name} cannot read {path}{where}")


def _is_readable(path: Path) -> bool:
    """Say whether we can read a file, or list and enter a folder; what does not exist yet may be made readable."""
    # Not `Path.is_dir`, which raises where a folder above may not be entered.
    rights = os.R_OK | (os.X_OK if os.path.isdir(path) else 0)
    return os.access(path, rights) or (not os.path.lexists(path) and _closed_folder(path) is None)


def _closed_folder(path: Path) -> Path | None:
    """Return the outermost folder that we may not enter on the way to a path, or to what it links to."""
    above = [*reversed(path.parents), *reversed(Path(os.path.realpath(path)).parents)]
    return next((folder for folder in above if os.path.isdir(folder) and not os.access(folder, os.X_OK)), None)


def renounce() -> None:
    """Give up privileges that no process of ours needs. Raises BrokerError.

    `no_new_privs`: no program started from here on gets more rights than its starter, whatever set-user-ID bit or
    capabilities its file has. Workers inherit it, and it is final.
    Not dumpable: processes of the same user, such as workers, can neither trace the broker nor read its memory and
    environment. A worker becomes dumpable again: --max-memory reads its statistics.
    """
    try:
        prctl(Option.NO_NEW_PRIVS, 1)
        prctl(Option.DUMPABLE, 0)
    except OSError as error:
        raise BrokerError(error.strerror) from error
