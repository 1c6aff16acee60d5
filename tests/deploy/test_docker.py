"""deploy/docker/Dockerfile: its steps are run, and its entry point serves as process 1, as in a container."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest
import yaml

from tests.support.broker import PATIENCE, stop_process, wait_until
from tests.support.deploy.container import Builder, Container, Stage, why_unavailable
from tests.support.root import ROOT
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.broker.host.exits import ExitCode
from tykpy.client.grpc import GrpcClient
from tykpy.commands.objects import CallDescription, build_object

DOCKERFILE: Final = ROOT / "deploy" / "docker" / "Dockerfile"
HOOKS: Final = """
import os, subprocess
from gateway import TykGateway as tyk
from tyk.decorators import Pre

@Pre
def looks_around(request, session, spec):
    tyk.store_data("key", "stored", 60)
    request.add_header("Store", tyk.get_data("key"))
    request.add_header("User", f"{os.getuid()}:{os.getgid()}")
    for folder in ("/", "/etc", "/opt/tykpy", "/opt/tyk-gateway/middleware/bundles", "/tmp"):
        try:
            open(folder + "/written", "w").close()
            request.add_header(folder, "written")
        except OSError as error:
            request.add_header(folder, os.strerror(error.errno))
    return request, session

@Pre
def leaves_an_orphan(request, session, spec):
    # The shell does not wait for what it starts; that ends once the shell is gone.
    orphan = "while kill -0 $PARENT; do sleep 0.01; done 2>/dev/null; touch /tmp/orphan"
    subprocess.run(["sh", "-c", f"export PARENT=$$; sh -c '{orphan}' & exit 0"], check=True)
    return request, session
"""


@pytest.fixture(scope="module")
def image() -> Iterator[tuple[Builder, Stage]]:
    if reason := why_unavailable():
        pytest.skip(reason)
    with Builder(DOCKERFILE) as builder:
        yield builder, builder.build()


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    # A Unix socket's path is limited to 107 bytes, and a test's own folder may be longer.
    runtime = Path(tempfile.mkdtemp(prefix="tykpy-"))
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "hooks.py").write_text(HOOKS)
    for path in (bundles, bundles / "hooks.py"):
        path.chmod(0o755)
    yield runtime, bundles
    shutil.rmtree(runtime)


def call(runtime: Path, hook: str) -> dict[str, str]:
    obj = build_object(CallDescription(hook, bundle="hooks"))
    with GrpcClient(f"unix://{runtime}/tyk.sock") as client:
        answer = client.call("/coprocess.Dispatcher/Dispatch", obj.SerializeToString(), timeout=PATIENCE)
    return dict(Object.FromString(answer).request.set_headers)


def zombies(pid: int) -> list[int]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with psutil.Process(child.pid).oneshot():
            found += [child.pid] if child.status() == psutil.STATUS_ZOMBIE else []
    return found


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.timeout(900)
def test_the_image_serves_from_a_read_only_root(image: tuple[Builder, Stage], folders: tuple[Path, Path]) -> None:
    runtime, bundles = folders
    with Container(*image, runtime, bundles) as container:
        wait_until((runtime / "tyk.sock").exists, lambda: container.log)
        seen = call(runtime, "looks_around")

        assert (seen.pop("Store"), seen.pop("User")) == ("stored", "65532:65532")
        assert seen.pop("/tmp") == "written"
        assert set(seen.values()) <= {"Read-only file system", "Permission denied"}

        # As process 1 it waits for what hooks leave behind.
        call(runtime, "leaves_an_orphan")
        wait_until(lambda: container.execute("test", "-e", "/tmp/orphan").returncode == 0, lambda: container.log)
        wait_until(lambda: not zombies(container.init), lambda: str(zombies(container.init)))

        # Extras that a container cannot add later: a live view, and traces.
        for command in (("tykpy", "status"), ("tykpy", "top", "--once"), ("python", "-c", "import opentelemetry.sdk")):
            done = container.execute(*command)
            assert done.returncode == 0, done.stderr
        assert container.stop() == 0, container.log
    assert not (runtime / "tyk.sock").exists()


def test_a_pod_gets_a_runtime_folder_of_its_own(image: tuple[Builder, Stage], folders: tuple[Path, Path]) -> None:
    """Everybody may write to an emptyDir, and the broker refuses such a folder: a pod first makes one in it."""
    runtime, bundles = folders
    runtime.chmod(0o755)
    volume = runtime / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    with Container(*image, volume, bundles, owned=False) as refused:
        assert refused.wait() == ExitCode.CANNOT_LISTEN, refused.log
        assert "everybody" in refused.log

    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "sidecar" / "tykpy.yaml").read_text())
    (pod,) = (item["spec"]["template"]["spec"] for item in documents if item["kind"] == "Deployment")
    prepare = [word.replace("/volume", str(volume)) for word in pod["initContainers"][0]["command"]]
    user = str(pod["securityContext"]["runAsUser"])
    subprocess.run(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *prepare], check=True)
    private = volume / pod["initContainers"][1]["volumeMounts"][0]["subPath"]
    with Container(*image, private, bundles, owned=False) as container:
        wait_until((private / "tyk.sock").exists, lambda: container.log)
        assert call(private, "looks_around")["Store"] == "stored"


@pytest.mark.timeout(900)
def test_the_health_check_follows_the_broker(image: tuple[Builder, Stage], folders: tuple[Path, Path]) -> None:
    builder, stage = image
    assert stage.health
    with Container(builder, stage, *folders) as container:
        wait_until((folders[0] / "tyk.sock").exists, lambda: container.log)
        wait_until(lambda: container.execute(*stage.health).returncode == 0, lambda: container.log)
        stop_process(container.init)
        try:
            wait_until(lambda: container.execute(*stage.health).returncode == 1, lambda: container.log)
        finally:
            os.kill(container.init, signal.SIGCONT)
