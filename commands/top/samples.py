"""Samples of the broker that runs with a runtime folder."""

from pathlib import Path
from typing import Final

from tykpy.commands.errors import CommandError
from tykpy.telemetry.live_segment import read_live_snapshot
from tykpy.telemetry.view import View, Viewer

SAMPLE_SECONDS: Final = 1.0
"""Time between two samples; the broker writes a snapshot twice a second."""


class Samples:
    """Takes samples: each shows what happened since the one before."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._viewer = Viewer()

    def take(self) -> View:
        """Take one now. Raises CommandError if no broker runs."""
        seen = read_live_snapshot(self._runtime_dir)
        if seen is None:
            raise CommandError(f"no broker runs with --runtime-dir {self._runtime_dir}, or it belongs to another user")
        if not seen.is_running:
            raise CommandError(f"the broker was killed; last seen {seen.snapshot.age:.1f} s ago: {seen.snapshot}")
        if not seen.snapshot.is_of_this_version:
            raise CommandError(
                f"the broker runs version {seen.snapshot.version} of tykpy, with other histograms than this one; "
                "tykpy status works"
            )
        return self._viewer.see(seen.snapshot)
