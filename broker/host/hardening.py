"""What the broker gives up before plugin code runs anywhere: for itself and, since they inherit it, for its workers."""

from tykpy.broker.errors import PrivilegeError
from tykpy.ipc.prctl import Option, prctl


def renounce() -> None:
    """Give up what no process of ours needs.

    `no_new_privs`: no program started from here on gets more rights than its starter has, whatever set-user-ID bit or
    capability its file has. Inherited by workers, and final.
    Not dumpable: processes of the same user, as workers are, can neither trace the broker nor read its memory and
    environment. A worker is dumpable again: --max-memory looks into it.

    Raises PrivilegeError.
    """
    try:
        prctl(Option.NO_NEW_PRIVS, 1)
        prctl(Option.DUMPABLE, 0)
    except OSError as error:
        raise PrivilegeError(error.strerror) from error
