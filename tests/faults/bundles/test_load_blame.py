"""What a bundle left running ends workers while others are loaded: that bundle is found, and no other is barred."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.bundles.test_bundle_loading import HOOK, described, reload, version
from tests.support.broker import RunningBroker, running_broker, wait_until
from tykpy.broker.errors import RpcError

MAY_HAVE = "what other bundles have left running may have done that"
MARK = "import os\nos.environ['ENDING'] = 'soon'\n"
"""Announces that the worker will be ended."""
WAITS = (
    "import os, time\nif 'ENDING' in os.environ: open({flag!r}, 'w').close()\n"
    "while 'ENDING' in os.environ: time.sleep(0.01)\n"
)
"""Has the worker ended, if that was announced, and waits for it."""
THREAD = (
    MARK + "import ctypes, threading, time\ndef end():\n    while not os.path.exists({flag!r}): time.sleep(0.01)\n"
    "    time.sleep(0.1)\n    {end}\nthreading.Thread(target=end, daemon=True).start()\n"
)
ENDINGS = {
    "crash.py": THREAD.replace("{end}", "ctypes.string_at(0)"),
    "exit.py": THREAD.replace("{end}", "os._exit(7)"),
    "kill.py": THREAD.replace("{end}", "os.kill(os.getpid(), 9)"),
    "process.py": MARK + "import subprocess\n"
    "until = 'until [ -e \"$0\" ]; do sleep 0.01; done; sleep 0.1; exec kill -9 $1'\n"
    "subprocess.Popen(['sh', '-c', until, {flag!r}, str(os.getpid())])\n",
    "task.py": MARK + "import asyncio\nfrom tyk.decorators import on_start\n"
    "async def end():\n    while not os.path.exists({flag!r}): await asyncio.sleep(0.01)\n"
    "    await asyncio.sleep(0.1)\n    os._exit(7)\n"
    "@on_start\nasync def start():\n    globals()['task'] = asyncio.create_task(end())\n",
    "timer.py": MARK + "import signal\ndef end(*_):\n    if os.path.exists({flag!r}): os._exit(5)\n"
    "signal.signal(signal.SIGALRM, end)\nsignal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)\n",
}
"""Bundles that end the worker soon after the file `flag` appears, and what they leave running to do so."""


def hook(name: str, number: int = 1) -> str:
    return HOOK.format(name=name, version=number)


def states(broker: RunningBroker) -> dict[str, Any]:
    return {name: bundle["state"] for name, bundle in described(broker).items()}


@pytest.fixture
def flag(tmp_path: Path) -> str:
    return str(tmp_path / "flag")


@pytest.mark.parametrize("name", ENDINGS)
def test_the_bundle_that_ends_workers_is_barred(tmp_path: Path, flag: str, name: str) -> None:
    waits = WAITS.format(flag=flag)
    files = {
        name: ENDINGS[name].format(flag=flag) + hook("aa"),
        "yy.py": waits + hook("yy"),
        "zz.py": waits + hook("zz"),
    }
    with running_broker(tmp_path, files=files) as broker:
        assert [version(broker, one) for one in ("yy", "zz")] == ["1", "1"]
        assert states(broker) == {name: "broken", "yy.py": "loaded", "zz.py": "loaded"}
        assert "the worker that loaded it" in described(broker)[name]["error"]["message"]
        assert f"while it loaded bundle yy.py; {MAY_HAVE}: {name} (" in broker.log
        assert broker.log.count(f" ERROR   tykpy.supervisor: bundle {name}: ") == 1


def test_several_bundles_that_end_workers_are_barred(tmp_path: Path, flag: str) -> None:
    source = ENDINGS["exit.py"].format(flag=flag)
    bad = {f"a{number}.py": source + hook(f"a{number}") for number in range(3)}
    files = {**bad, "zz.py": WAITS.format(flag=flag) + hook("zz")}
    with running_broker(tmp_path, workers=2, files=files) as broker:
        assert version(broker, "zz") == "1"
        assert states(broker) == dict.fromkeys(bad, "broken") | {"zz.py": "loaded"}


def test_a_reload_blames_the_bundle_that_ends_workers(tmp_path: Path, flag: str) -> None:
    files = {f"{name}.py": hook(name) for name in ("aa", "zz")}
    with running_broker(tmp_path, workers=2, files=files) as broker:
        broker.add_file("aa.py", ENDINGS["exit.py"].format(flag=flag) + hook("aa", 2))
        broker.add_file("zz.py", WAITS.format(flag=flag) + hook("zz", 2))
        with pytest.raises(RpcError, match=r"would break\nbundle aa\.py: .* exited with code 7") as told:
            reload(broker)
        assert "zz.py" not in str(told.value)
        assert [version(broker, name) for name in ("aa", "zz")] == ["1", "1"]
        broker.add_file("aa.py", hook("aa", 3))
        reload(broker)
        assert [version(broker, name) for name in ("aa", "zz")] == ["3", "2"]


def test_an_end_that_does_not_repeat_bars_nobody(tmp_path: Path, flag: str) -> None:
    once = str(tmp_path / "once")
    end = f"os.path.exists({once!r}) or (os.mkdir({once!r}), os._exit(7))\n    del os.environ['ENDING']"
    files = {
        "aa.py": THREAD.format(flag=flag, end=end) + hook("aa"),
        "zz.py": WAITS.format(flag=flag) + hook("zz"),
    }
    with running_broker(tmp_path, files=files) as broker:
        assert [version(broker, name) for name in ("aa", "zz")] == ["1", "1"]
        assert states(broker) == {"aa.py": "loaded", "zz.py": "loaded"}
        assert f"while it loaded bundle zz.py; {MAY_HAVE}: aa.py (threads)" in broker.log


def test_the_bundle_that_ends_idle_workers_is_barred(tmp_path: Path, flag: str) -> None:
    files = {"aa.py": ENDINGS["exit.py"].format(flag=flag) + hook("aa"), "zz.py": hook("zz")}
    with running_broker(tmp_path, workers=2, files=files) as broker:
        Path(flag).touch()
        wait_until(lambda: states(broker).get("aa.py") == "broken", lambda: broker.log)
        assert version(broker, "zz") == "1"
        assert f"while it ran no hook; {MAY_HAVE}: aa.py (threads)" in broker.log


@pytest.mark.parametrize(("left", "starts"), [("", 1), ("threading.Thread(target=wait, daemon=True).start()\n", 2)])
def test_a_bundle_that_ends_its_worker_is_barred(tmp_path: Path, left: str, starts: int) -> None:
    """At once if no other bundle can have done it, otherwise when it has done it again, alone."""
    count = tmp_path / "count"
    first = f"import threading\nwait = threading.Event().wait\n{left}"
    ends = f"import os\nopen({str(count)!r}, 'a').write('.')\nos._exit(3)\n"
    with running_broker(tmp_path, files={"aa.py": first + hook("aa"), "zz.py": ends}) as broker:
        assert version(broker, "aa") == "1"
        assert states(broker) == {"aa.py": "loaded", "zz.py": "broken"}
        assert len(count.read_text()) == starts
