"""How much memory a process has, from /proc."""

import os
from pathlib import Path
from typing import Final

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
KIB: Final = 1024
_RSS_FIELD: Final = 1
"""In `statm`: pages."""


def memory_of(pid: int, limit: int) -> int:
    """Bytes that are this process's own share of memory (PSS), or 0 where it is gone.

    Shared pages count in part: workers have much in common. That costs the kernel a walk over all mappings, so it is
    asked only where the cheap upper bound (RSS) is above `limit`; up to there the bound is returned.
    """
    try:
        rss = int(Path(f"/proc/{pid}/statm").read_text().split()[_RSS_FIELD]) * PAGE
        return _pss(pid, rss) if rss > limit else rss
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _pss(pid: int, otherwise: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        return otherwise
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("Pss:")), otherwise)
