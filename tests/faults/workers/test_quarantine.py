"""Frames and hooks that kill workers are not run again, while everything else goes on."""

import concurrent.futures
import itertools
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE, Gate
from tykpy.client.grpc import GrpcCallError

FILES = {"hooks.py": SOURCE}
RECOVERING = """
import os
from tyk.decorators import Pre

@Pre
def weak(request, session, spec):
    if os.path.exists(request.get_header("Trouble")):
        os.abort()
    return request, session
"""


def error_of(broker: RunningBroker, hook: str, nonce: str = "-") -> str:
    with pytest.raises(GrpcCallError) as caught:
        broker.call(hook, bundle="hooks", headers=[("Nonce", nonce)])
    return f"{caught.value.code.name}: {caught.value.message}"


def is_well(broker: RunningBroker) -> bool:
    return "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers


def command(broker: RunningBroker, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    arguments = [TYKPY, name, "--runtime-dir", str(broker.runtime), *flags]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def test_a_dispatch_that_killed_two_workers_kills_no_third(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        for _ in range(2):
            assert "exited with code 9" in error_of(broker, "dies")
        for _ in range(3):
            assert error_of(broker, "dies").startswith("INTERNAL: quarantined")
        assert broker.status()["restarts"] == 2
        (frame,) = broker.status()["quarantine"]["frames"]
        assert frame["hook"] == "dies"
        assert is_well(broker)
        shown = command(broker, "hooks")
        assert "hook dies has one dispatch in quarantine" in shown.stderr
        assert shown.returncode == 1
        assert command(broker, "reload").returncode == 0
        assert command(broker, "hooks").stderr == ""
        assert "exited with code 9" in error_of(broker, "dies")


def test_a_hook_that_killed_three_workers_waits_for_new_code(tmp_path: Path) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        for number in range(3):
            assert "exited with code 9" in error_of(broker, "dies", str(number))
        refused = error_of(broker, "dies", "other")
        assert refused.startswith("UNAVAILABLE")
        assert "killed 3 workers" in refused
        assert "tykpy reload" in refused
        assert broker.status()["restarts"] == 3
        assert is_well(broker)
        assert [one["hook"] for one in broker.status()["quarantine"]["hooks"]] == ["dies"]
        shown = command(broker, "hooks")
        assert "hook dies is not run: it killed 3 workers" in shown.stderr
        assert shown.returncode == 1
        assert command(broker, "reload").returncode == 0
        assert command(broker, "hooks").stderr == ""
        assert "exited with code 9" in error_of(broker, "dies", "other")


@pytest.mark.parametrize("bundle", ["hooks", ""], ids=["of a bundle", "without a bundle"])
def test_the_log_and_status_name_the_hook_that_kills(tmp_path: Path, bundle: str) -> None:
    with running_broker(tmp_path, files=FILES) as broker:
        for number in range(3):
            with pytest.raises(GrpcCallError):
                broker.call("dies", bundle=bundle, headers=[("Nonce", str(number))])
        died = "exited with code 9 while it ran hook dies of bundle hooks.py"
        wait_until(lambda: broker.log.count(died) == 3, lambda: broker.log)
        broker.wait_for_log(
            "hook dies of bundle hooks.py is not run: it killed 3 workers in 30 s and is tried again in "
        )
        (record,) = [one for one in broker.log.splitlines() if "is not run" in one]
        assert "or when new code is loaded (tykpy reload)" in record
        assert "hook dies of hooks.py is not run, it killed workers: breaker open" in command(broker, "status").stdout
        assert json.loads(command(broker, "status", "--json").stdout)["quarantine"]["hooks"][0]["bundle"] == "hooks.py"


def test_the_log_names_the_hook_that_hangs(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--timeout", "0.2", "--hang-grace", "0", files=FILES) as broker:
        with pytest.raises(GrpcCallError):
            broker.call("busy_forever", bundle="hooks", headers=[("Nonce", "1")])
        broker.wait_for_log("is past the deadline of hook busy_forever of bundle hooks.py; its stacks follow")
        broker.wait_for_log("was ended by SIGKILL while it ran hook busy_forever of bundle hooks.py")


def test_a_hook_that_keeps_hanging_is_left_alone(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--timeout", "0.2", "--hang-grace", "0", files=FILES) as broker:
        # A call may also expire before there is a worker to run it, which blames nobody.
        nonces = map(str, itertools.count())
        wait_until(
            lambda: error_of(broker, "busy_forever", next(nonces)).startswith("UNAVAILABLE"),
            lambda: str(broker.status()),
        )
        assert broker.log.count("hangs; killing it") == 3
        assert broker.status()["quarantine"]["frames"] == []


def test_a_hook_that_recovers_is_run_again_after_one_trial(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    files = {"hooks.py": SOURCE, "weak.py": RECOVERING}
    with running_broker(tmp_path, "--breaker-cooldown", "1", files=files) as broker:

        def outcome(nonce: int) -> str:
            try:
                broker.call("weak", bundle="weak", headers=[("Trouble", str(trouble)), ("Nonce", str(nonce))])
            except GrpcCallError as error:
                return error.code.name
            return "OK"

        assert [outcome(number) for number in range(4)] == ["INTERNAL"] * 3 + ["UNAVAILABLE"]
        trouble.unlink()
        wait_until(lambda: outcome(5) == "OK", lambda: broker.log)
        assert [outcome(number) for number in range(6, 9)] == ["OK"] * 3
        assert broker.status()["quarantine"]["hooks"] == []
        assert "ended by SIGABRT" in broker.log


def test_waiting_dispatches_fail_when_their_hook_is_given_up(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with (
        running_broker(tmp_path, "--threads", "1", files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(24) as callers,
    ):
        first = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
        gate.wait_entered()
        waiting = [callers.submit(error_of, broker, "dies", str(number)) for number in range(20)]
        well = callers.submit(is_well, broker)
        wait_until(lambda: broker.status()["under_way"] == 22, lambda: str(broker.status()))
        gate.open()
        outcomes = [call.result() for call in waiting]
        assert first.result()
        assert well.result()
        assert sum("while it ran this hook" in outcome for outcome in outcomes) == 3
        # Calls that were given to all three workers, behind the call that killed them, fail.
        others = [outcome for outcome in outcomes if "while it ran" not in outcome]
        assert all(one.startswith("UNAVAILABLE") or "before it started this hook, 3 times" in one for one in others)
        assert broker.status()["restarts"] == 3


def test_kills_from_outside_are_not_blamed_on_hooks(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, files=FILES) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        for number in range(4):
            gate = Gate(tmp_path, f"gate{number}")
            call = callers.submit(broker.call, "gated", bundle="hooks", headers=gate.headers())
            ((pid, _, _),) = gate.wait_entered()
            os.kill(pid, signal.SIGKILL)
            assert "ended by SIGKILL" in str(call.exception())
        assert broker.status()["quarantine"] == {"frames": [], "hooks": []}
