"""Give calls what they read when they were recorded: `tykpy replay` writes it into a folder and names it in each call.

Only a broker that `tykpy replay` has started takes part; see `REPLAY_VARIABLE`.
"""

import os
from pathlib import Path
from typing import Self

from tyk.call import REPLAYED, read_metadata
from tykpy.ipc.frame import Packed, unpack_frame
from tykpy.ipc.reads import REPLAY_VARIABLE, unpack_reads
from tykpy.workers.dispatch.reads import ReplayedReads


class Replays:
    """The folder of the calls that are replayed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def open(cls) -> Self | None:
        """Return the folder that the environment names; None outside of a replay."""
        folder = os.environ.pop(REPLAY_VARIABLE, None)
        return None if folder is None else cls(Path(folder))

    def find(self, payload: Packed) -> ReplayedReads | None:
        """Return what a call is to read; None if it is none of the replay's own. Raises OSError or ValueError."""
        metadata = unpack_frame(payload).meta
        number = read_metadata(metadata, ()).get(REPLAYED) if metadata is not None else None
        return None if number is None else ReplayedReads(unpack_reads((self._folder / str(number)).read_bytes()))
