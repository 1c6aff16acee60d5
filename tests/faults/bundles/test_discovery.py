"""Bundles that appear while the broker serves: new workers load them, and no other call waits or fails."""

import concurrent.futures
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tests.support.bundles import md5, write_bundle
from tests.support.hooks import SOURCE
from tests.support.peers.load import Load
from tykpy.broker.errors import RpcError
from tykpy.client.grpc import GrpcCallError

HOOK = """
from tyk.decorators import Pre

@Pre
def {name}(request, session, spec):
    request.add_header("Version", "{version}")
    return request, session
"""
WAITS_FOR = (
    "import os, time\nopen({entered!r}, 'w').close()\nwhile not os.path.exists({flag!r}):\n    time.sleep(0.01)\n"
)


def version(broker: RunningBroker, name: str, bundle: str | None = None) -> str:
    return broker.call(name, bundle=name if bundle is None else bundle, timeout=60).request.set_headers["Version"]


def is_served(broker: RunningBroker, name: str) -> bool:
    try:
        return version(broker, name) == "1"
    except GrpcCallError:
        return False


def test_no_call_waits_for_an_import_of_another_bundle(tmp_path: Path) -> None:
    entered, flag = tmp_path / "entered", tmp_path / "flag"
    slow = WAITS_FOR.format(entered=str(entered), flag=str(flag)) + HOOK.format(name="slow", version=1)
    with (
        running_broker(tmp_path, "--timeout", "60", workers=2, files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        with Load(broker.address, "echo_with_worker", "hooks") as load:
            load.wait_for_more(20)
            broker.add_file("slow.py", slow)
            first = callers.submit(version, broker, "slow")
            wait_until(entered.exists, lambda: broker.log)
            load.wait_for_more(100)
            assert not first.done()
            flag.touch()
            assert first.result() == "1"
            load.wait_for_more(20)
        load.check()
        assert not load.errors
        assert broker.status()["restarts"] == 0


def test_a_call_waits_for_a_bundle_that_came_during_a_load(tmp_path: Path) -> None:
    entered, flag = tmp_path / "entered", tmp_path / "flag"
    slow = WAITS_FOR.format(entered=str(entered), flag=str(flag)) + HOOK.format(name="slow", version=1)
    with (
        running_broker(tmp_path, "--timeout", "60", files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(1) as callers,
    ):
        broker.add_file("slow.py", slow)
        wait_until(entered.exists, lambda: broker.log)
        broker.add_file("later.py", HOOK.format(name="later", version=1))
        later = callers.submit(version, broker, "later")
        wait_until(lambda: broker.status()["waiting"] == 1, lambda: broker.log)
        flag.touch()
        assert later.result() == "1"


def test_a_broken_bundle_that_writes_to_itself_is_left_alone(tmp_path: Path) -> None:
    """It changes each time it is loaded, and so looks repaired."""
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        write_bundle(broker.bundles / "mine", {"middleware.py": "open(__file__, 'a').write('#')\nnothing\n"})
        broker.wait_for_log("loaded: no bundles; not loaded completely: mine changed")
        for number in range(2):
            broker.add_file(f"other{number}.py", HOOK.format(name=f"other{number}", version=1))
            broker.wait_for_log(f"other{number}.py new")
        assert broker.log.count("new workers load mine") == 2
        broker.add_file("mine/middleware.py", HOOK.format(name="mine", version=1))
        # So soon after a load the change may be its own: then it is tried when it is called.
        wait_until(lambda: is_served(broker, "mine"), lambda: broker.log)


def test_a_bundle_is_loaded_before_anybody_calls_it(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        broker.add_file("later.py", HOOK.format(name="later", version=1))
        broker.wait_for_log("loaded: later.py new")
        assert version(broker, "later") == "1"


def test_a_folder_is_loaded_once_it_is_whole(tmp_path: Path) -> None:
    """A gateway creates the folder first, and unpacks into it afterwards."""
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        folder = broker.bundles / md5("mine.zip")
        folder.mkdir()
        with pytest.raises(GrpcCallError, match=r"no manifest\.json in it|no bundle with the hash"):
            version(broker, "mine", "mine.zip")
        write_bundle(folder, {"middleware.py": HOOK.format(name="mine", version=1)}, pre=[{"name": "mine"}])
        assert version(broker, "mine", "mine.zip") == "1"


def test_a_broken_bundle_is_tried_again_when_it_is_called(tmp_path: Path) -> None:
    """By one worker that serves nobody, some seconds after it failed."""
    flag = tmp_path / "flag"
    needs = f"open({str(flag)!r}).close()\n" + HOOK.format(name="needs", version=1)
    with running_broker(tmp_path, files={"needs.py": needs}) as broker:
        with pytest.raises(GrpcCallError, match="FileNotFoundError"):
            version(broker, "needs")
        flag.touch()
        wait_until(lambda: is_served(broker, "needs"), lambda: broker.log)
        assert "a new worker tries needs.py again" in broker.log
        assert broker.status()["restarts"] == 0


def test_a_repaired_bundle_is_loaded_without_a_reload(tmp_path: Path) -> None:
    with running_broker(
        tmp_path, files={"hooks.py": SOURCE, "mine.py": "from tyk.decorators import Nothing\n"}
    ) as broker:
        broker.add_file("mine.py", HOOK.format(name="mine", version=2))
        broker.wait_for_log("loaded: mine.py changed")
        assert version(broker, "mine") == "2"


def test_a_folder_that_is_a_bundle_itself_has_its_name(tmp_path: Path) -> None:
    source = HOOK.format(name="mine", version=1)
    folder = write_bundle(tmp_path / "whole", {"middleware.py": source}, pre=[{"name": "mine"}])
    with RunningBroker(tmp_path, "--bundles", str(folder)) as broker:
        (folder / "middleware.py").write_text(HOOK.format(name="mine", version=2))
        broker.wait_for_log("bundle whole has changed on disk; `tykpy reload` serves it as it is now")


def test_a_changed_bundle_is_logged_and_not_loaded(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": HOOK.format(name="mine", version=1)}) as broker:
        broker.add_file("mine.py", HOOK.format(name="mine", version=2))
        broker.wait_for_log("bundle mine.py has changed on disk; `tykpy reload` serves it as it is now")
        broker.add_file("other.py", HOOK.format(name="other", version=1))
        assert version(broker, "other") == "1"
        assert version(broker, "mine") == "1"
        with broker.admin() as client:
            client.call("reload", timeout=60)
        assert version(broker, "mine") == "2"


def test_a_new_bundle_does_not_wait_for_a_half_written_one(tmp_path: Path) -> None:
    with running_broker(tmp_path, workers=2, files={"mine.py": HOOK.format(name="mine", version=1)}) as broker:
        broker.add_file("mine.py", HOOK.format(name="mine", version=2)[:-40])
        broker.add_file("other.py", HOOK.format(name="other", version=1))
        assert version(broker, "other") == "1"
        assert version(broker, "mine") == "1"


def test_a_new_bundle_outlives_a_refused_reload(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"mine.py": HOOK.format(name="mine", version=1)}) as broker:
        broker.add_file("mine.py", "from tyk.decorators import Nothing\n")
        broker.add_file("other.py", HOOK.format(name="other", version=1))
        with broker.admin() as client, pytest.raises(RpcError, match="what is served now would break"):
            client.call("reload", timeout=60)
        assert version(broker, "other") == "1"
        assert version(broker, "mine") == "1"


def test_the_folder_may_appear_later(tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path)
    broker.bundles.rmdir()
    with broker:
        assert f"--bundles {broker.bundles}: there is no such folder yet" in broker.log
        aside = tmp_path / "aside"
        aside.mkdir()
        (aside / "mine.py").write_text(HOOK.format(name="mine", version=1))
        aside.rename(broker.bundles)
        assert version(broker, "mine") == "1"


def test_calls_for_unknown_bundles_do_not_make_work(tmp_path: Path) -> None:
    """However many there are, the folder is checked ten times a second at most, and no worker is started."""
    with (
        running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        with pytest.raises(GrpcCallError, match="no bundle with the hash"):
            version(broker, "nobody")
        before = broker.status()["workers"][0]["pid"]

        def fails(number: int) -> bool:
            with pytest.raises(GrpcCallError, match="no bundle with the hash"):
                version(broker, "hook", f"nobody-{number}")
            return True

        assert all(pool.map(fails, range(100)))
        assert [row["pid"] for row in broker.status()["workers"]] == [before]


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs another user")
def test_an_unreadable_bundle_does_not_affect_others(tmp_path: Path) -> None:
    prefix = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--"] if os.geteuid() == 0 else []
    broker = RunningBroker(tmp_path)
    broker.prefix = prefix
    broker.add_file("hooks.py", SOURCE)
    closed = write_bundle(broker.bundles / "closed", {"middleware.py": HOOK.format(name="closed", version=1)})
    closed.chmod(0)
    try:
        with broker:
            assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
            with pytest.raises(GrpcCallError, match=r"closed.*Permission denied.*user \w+ needs access"):
                version(broker, "closed")
            first = broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"]
            os.kill(int(first), signal.SIGKILL)
            wait_until(lambda: broker.status()["restarts"] == 1, lambda: broker.log)
            assert broker.call("add_header", bundle="hooks").request.set_headers["X-Worker"] != first
            with broker.admin() as client:
                client.call("reload", timeout=60)
            assert "X-Worker" in broker.call("add_header", bundle="hooks").request.set_headers
            closed.chmod(0o755)
            wait_until(lambda: "loaded: closed changed" in broker.log, lambda: broker.log)
            assert version(broker, "closed") == "1"
    finally:
        closed.chmod(0o755)
