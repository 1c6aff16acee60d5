"""Starting workers: everything that fails is a WorkerStartError."""

import os

import pytest

from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import WorkerStartError
from tykpy.broker.pool.starting import WorkerStarter
from tykpy.broker.pool.zygote import ZygoteKeeper


class NoOwner:
    """An owner that is never called."""

    def worker_ready(self, worker: object) -> None:
        """Not expected."""

    def worker_lost(self, worker: object, why: str) -> None:
        """Not expected."""


@pytest.mark.parametrize(
    "error", [ValueError("odd"), UnicodeEncodeError("utf-8", "\udce9", 0, 1, "odd"), OSError("odd")]
)
@pytest.mark.parametrize("failing", ["_worker_config", "_process"])
def test_any_fault_is_a_failed_start(monkeypatch: pytest.MonkeyPatch, error: Exception, failing: str) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(WorkerStarter, failing, fail)
    starter = WorkerStarter(BrokerConfig(), ZygoteKeeper())
    before = set(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(WorkerStartError, match=r"no process can be started: .*odd"):
            starter.start(0, NoOwner())
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        starter.close()
