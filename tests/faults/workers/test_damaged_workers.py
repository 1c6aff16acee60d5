"""Workers in which tykpy's own code fails, because a hook has replaced what it needs."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import running_broker
from tykpy.broker.pool.supervisor import MAX_FAULTS
from tykpy.client.grpc import GrpcCallError

DAMAGES: Final = """
import builtins
from tyk.decorators import Pre

@Pre
def damages(request, session, spec):
    builtins.dict = None
    return request, session

@Pre
def fails(request, session, spec):
    raise ValueError
"""
SOUND: Final = """
from tyk.decorators import Pre

@Pre
def sound(request, session, spec):
    return request, session
"""


def test_a_worker_whose_own_code_fails_is_replaced(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"damaging.py": DAMAGES, "sound.py": SOUND}) as broker:
        for bundle, hook in (("damaging", "damages"), *[("sound", "sound")] * (MAX_FAULTS - 1)):
            with pytest.raises(GrpcCallError, match="tykpy failed inside a worker"):
                broker.call(hook, bundle=bundle)
        for _ in range(MAX_FAULTS):
            broker.call("sound", bundle="sound")
        assert f"is replaced: {MAX_FAULTS} dispatches in a row failed in tykpy's own code" in broker.log
        assert broker.status()["restarts"] == 1


def test_a_worker_whose_hooks_fail_goes_on(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"damaging.py": DAMAGES}) as broker:
        for _ in range(MAX_FAULTS + 1):
            with pytest.raises(GrpcCallError, match=r"hook fails of bundle damaging\.py failed"):
                broker.call("fails", bundle="damaging")
        assert broker.status()["restarts"] == 0
