"""Bundles that end, hang or damage the workers that load them: all other bundles are served."""

import os
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.broker import RunningBroker, running_broker, wait_until
from tykpy.broker.errors import RpcError
from tykpy.client.grpc import GrpcCallError

HOOK = """
from tyk.decorators import Pre

@Pre
def {name}(request, session, spec):
    request.add_header("Version", "{version}")
    return request, session
"""
RINGS = "import os\nfor fd in range(3, 200):\n    try:\n        kind = os.readlink(f'/proc/self/fd/{fd}')\n"
KILLERS: dict[str, tuple[str, str]] = {
    "exits": ("import os\nos._exit(7)", "the worker that loaded it exited with code 7"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "the worker that loaded it was ended by SIGSEGV"),
    "aborts": ("import os\nos.abort()", "was ended by SIGABRT"),
    "kills_itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
    "stops_itself": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "it was not loaded after 3 s (--load-timeout)",
    ),
    "closes_all": ("import os\nos.closerange(3, 1000)", "its descriptors were closed"),
    "closes_a_pipe": (
        RINGS + "        if kind.startswith('pipe:'): os.close(fd)\n    except OSError: pass",
        "its descriptors were closed",
    ),
    "replaces_sockets": (
        RINGS + "        if kind.startswith('socket:'): os.dup2(os.open('/dev/null', os.O_RDWR), fd)\n"
        "    except OSError: pass",
        "its descriptors were closed",
    ),
    "ends_its_group": (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_DFL)\nos.killpg(0, signal.SIGTERM)",
        "was ended by SIGTERM",
    ),
    "refuses_files": (
        "import sys\ndef refuse(event, args):\n    if event == 'open': raise RuntimeError\nsys.addaudithook(refuse)",
        "an audit hook refuses to open files",
    ),
    "refuses_all": (
        "import sys\ndef refuse(event, args): raise SystemExit\nsys.addaudithook(refuse)",
        "an audit hook refuses to open files",
    ),
    "breaks_join": ("import os.path\nos.path.join = None", "no other bundle could be loaded: it replaced"),
    "breaks_io": (
        "import io\ndef refuse(*_, **__): raise RuntimeError('no files')\nsetattr(io, 'open', refuse)",
        "no other bundle could be loaded: it replaced",
    ),
    "breaks_json": ("import json\njson.loads = None", "no other bundle could be loaded: it replaced"),
    "breaks_paths": ("import pathlib\ndel pathlib.Path.stat", "no other bundle could be loaded: it replaced"),
    "breaks_os": ("import os\nos.listdir = os.scandir = None", "no other bundle could be loaded: it replaced"),
    "changes_and_exits": ("import os\nopen(__file__, 'a').write('#')\nos._exit(6)", "exited with code 6"),
    "waits_in_a_str": (
        "import time\nclass E(Exception):\n    def __str__(self): time.sleep(3600)\nraise E",
        "it was not loaded after 3 s",
    ),
}
if os.getuid() == 0:
    KILLERS["becomes_nobody"] = ("import os\nos.setgid(65534)\nos.setuid(65534)", "its user, group or root folder was")
    KILLERS["moves_its_root"] = ("import os\nos.chroot('/tmp')", "its user, group or root folder was changed")
"""What a bundle does when it is imported, and what is said of it."""
RAISERS: dict[str, tuple[str, str]] = {
    "raises": ("raise KeyboardInterrupt('by the plugin')", "KeyboardInterrupt: by the plugin"),
    "surrogates": ("raise ValueError('a\\udc80')", "ValueError: a\\udc80"),
    "huge": (
        "from tyk.decorators import Pre\ndef f(request, session, spec): pass\nfor i in range(10_000):\n"
        "    globals()[f'h{i}'] = g = type(f)(f.__code__, {}, f'h{i}')\n    Pre(g)",
        "more than 4096 hooks in one bundle: split it",
    ),
}
BAD: Final = {**KILLERS, **RAISERS}
NUISANCES: dict[str, str] = {
    "child": "import os\nif os.fork() == 0:\n    pass\n",
    "many": "from tyk.decorators import Pre\ndef f(request, session, spec): pass\nfor i in range(4_000):\n"
    "    globals()[f'm{i}'] = g = type(f)(f.__code__, {}, f'm{i}')\n    Pre(g)\n",
    "lost": "import os, tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder)\nos.rmdir(folder)\n",
    "shallow": "import sys, inspect\nsys.setrecursionlimit(len(inspect.stack()) + 15)\n",
    "tidy": "import sys\nsys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear(); sys.modules.clear()\n",
    "late": "import signal, faulthandler\nfaulthandler.dump_traceback_later(0.001, exit=True)\nsignal.alarm(1)\n",
    "wraps": "import io, json, os\n"
    "def wrapped(function):\n    return lambda *args, **kwargs: function(*args, **kwargs)\n"
    "io.open, json.loads, os.stat = map(wrapped, (io.open, json.loads, os.stat))\n",
    "refuses": "import builtins\ndef open(*_, **__): raise RuntimeError\nbuiltins.open = open\n",
    "rude": "import builtins\nbuiltins.len = None\ndel builtins.open\n",
}
"""What a bundle does that hurts the process, and is undone; some of these cannot be loaded themselves."""


def described(broker: RunningBroker) -> dict[str, dict[str, Any]]:
    with broker.admin() as client:
        bundles = client.call("hooks")
    assert isinstance(bundles, list)
    return {bundle["name"]: bundle for bundle in bundles}


def version(broker: RunningBroker, name: str) -> str:
    return broker.call(name, bundle=name).request.set_headers["Version"]


def failure(broker: RunningBroker, name: str) -> str:
    with pytest.raises(GrpcCallError) as caught:
        version(broker, name)
    return str(caught.value)


def reload(broker: RunningBroker) -> None:
    with broker.admin() as client:
        client.call("reload", timeout=120)


@pytest.mark.parametrize("names", [sorted(BAD)[::2], sorted(BAD)[1::2]], ids=["half", "others"])
def test_whatever_bundles_do_while_loaded_others_are_served(tmp_path: Path, names: list[str]) -> None:
    """At the start, and again when a worker is replaced; each is reported once."""
    bad = {name: BAD[name] for name in names}
    files = {f"{name}.py": source for name, (source, _) in bad.items()}
    files |= {f"{name}.py": source + HOOK.format(name=name, version=1) for name, source in NUISANCES.items()}
    files |= {f"{name}.py": HOOK.format(name=name, version=1) for name in ("aa", "zz")}
    with running_broker(tmp_path, "--load-timeout", "3", workers=2, files=files) as broker:
        check_served(broker, bad)
        before = broker.status()
        assert before["restarts"] == 0
        os.kill(before["workers"][0]["pid"], signal.SIGKILL)
        wait_until(lambda: broker.log.count("2 workers ready") == 2, lambda: broker.log)
        check_served(broker, bad)


def problems_in(status: dict[str, Any]) -> dict[str, str]:
    return {bundle["name"]: "; ".join(bundle["problems"]) for bundle in status["bundles"]}


def check_served(broker: RunningBroker, bad: dict[str, tuple[str, str]]) -> None:
    assert [version(broker, name) for name in ("aa", "zz")] == ["1", "1"]
    found, problems = described(broker), problems_in(broker.status())
    for name, (_, said) in bad.items():
        bundle = found[f"{name}.py"]
        assert bundle["state"] == "broken"
        assert said in bundle["error"]["message"]
        assert f"{name}.py" in bundle["error"]["file"]
        assert f"bundle {name}.py:" in problems[f"{name}.py"]
        assert said in problems[f"{name}.py"]
        assert broker.log.count(f" ERROR   tykpy.supervisor: bundle {name}.py: ") == 1
        assert said in failure(broker, name)
    assert {found[f"{name}.py"]["state"] for name in ("child", "many", "lost", "refuses", "wraps")} == {"loaded"}
    assert len(found["many.py"]["hooks"]) == 4_001


def test_the_log_names_what_keeps_bundles_from_loading(tmp_path: Path) -> None:
    files = {"aa.py": KILLERS["breaks_join"][0], "zz.py": HOOK.format(name="zz", version=1)}
    with running_broker(tmp_path, files=files) as broker:
        assert version(broker, "zz") == "1"
        wait_until(lambda: "bundle aa.py replaced posixpath.join: no other bundle" in broker.log, lambda: broker.log)


@pytest.mark.parametrize("name", ["exits", "stops_itself"])
def test_a_bundle_found_while_serving_costs_no_worker(tmp_path: Path, name: str) -> None:
    source, said = KILLERS[name]
    files = {"aa.py": HOOK.format(name="aa", version=1)}
    with running_broker(tmp_path, "--load-timeout", "3", workers=2, files=files) as broker:
        broker.add_file(f"{name}.py", source)
        for _ in range(4):
            assert said in failure(broker, name)
        broker.wait_for_log(f"loaded: no bundles; not loaded completely: {name}.py new")
        assert version(broker, "aa") == "1"
        assert broker.status()["restarts"] == 0
        broker.add_file(f"{name}.py", HOOK.format(name=name, version="mended"))
        wait_until(lambda: mended(broker, name), lambda: broker.log)


def mended(broker: RunningBroker, name: str) -> bool:
    try:
        return version(broker, name) == "mended"
    except GrpcCallError:
        return False


def test_a_reload_ends_though_bundles_end_its_workers(tmp_path: Path) -> None:
    dies = KILLERS["exits"][0]
    with running_broker(tmp_path, workers=2, files={"aa.py": HOOK.format(name="aa", version=1)}) as broker:
        broker.add_file("bb.py", dies)
        broker.add_file("cc.py", dies)
        broker.add_file("zz.py", HOOK.format(name="zz", version=1))
        reload(broker)
        assert version(broker, "zz") == "1"
        assert described(broker)["bb.py"]["state"] == described(broker)["cc.py"]["state"] == "broken"
        broker.add_file("aa.py", dies)
        broker.add_file("bb.py", HOOK.format(name="bb", version=1))
        with pytest.raises(RpcError, match=r"what is served now would break\n.*aa\.py: the worker .* exited with code"):
            reload(broker)
        assert [version(broker, name) for name in ("aa", "zz")] == ["1", "1"]
        broker.add_file("aa.py", HOOK.format(name="aa", version=2))
        reload(broker)
        assert [version(broker, name) for name in ("aa", "bb", "zz")] == ["2", "1", "1"]
        assert described(broker)["cc.py"]["state"] == "broken"


def test_a_refused_reload_names_the_bundle_being_loaded(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"aa.py": HOOK.format(name="aa", version=1)}) as broker:
        broker.add_file("aa.py", KILLERS["kills_itself"][0])
        with pytest.raises(RpcError, match=r"did not start: it was ended by SIGKILL while it loaded bundle aa\.py"):
            reload(broker)
        assert version(broker, "aa") == "1"


def test_a_reload_tries_a_bundle_again_whose_files_are_the_same(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    source = f"import os\nos.path.exists({str(flag)!r}) or os._exit(7)\n" + HOOK.format(name="aa", version=1)
    with running_broker(tmp_path, files={"aa.py": source}) as broker:
        assert KILLERS["exits"][1] in failure(broker, "aa")
        flag.touch()
        assert KILLERS["exits"][1] in failure(broker, "aa")
        reload(broker)
        assert version(broker, "aa") == "1"
