"""What a bundle leaves running is found, whatever it is; a bundle that leaves nothing is not suspected."""

import signal
import subprocess
import sys

import pytest

LEAVES = {
    "threads": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
    "child processes": "import subprocess\nsubprocess.Popen(['sleep', '9'])",
    "signal handlers": "import signal\nsignal.signal(signal.SIGUSR1, print)",
    "hooks of the interpreter": "import gc\ngc.callbacks.append(lambda *_: None)\ngc.callbacks = None",
}
SCRIPT = """
import os, signal
from tykpy.bundles.load_guard import LoadGuard
guard = LoadGuard()
with guard.around():
    pass
assert not guard.left
with guard.around():
    exec({source!r}, {{}})
left = set(guard.left)
with guard.around():
    import subprocess
    subprocess.run(["true"], check=True)
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    open(os.devnull).close()
assert not guard.left, guard.left
os.write(1, ", ".join(sorted(left)).encode())
os.killpg(0, signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", LEAVES)
def test_what_a_bundle_leaves_running_is_found(kind: str) -> None:
    command = [sys.executable, "-P", "-c", SCRIPT.format(source=LEAVES[kind])]
    done = subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True)
    assert done.returncode == -signal.SIGKILL
    assert kind in done.stdout.decode().split(", ")
