"""Builds an image from a Dockerfile, and runs it, in namespaces of this machine: without a container engine.

Steps are run as they are written. Only the base image is another: this machine's files, with the Python that runs the
tests at /usr/local, where the `python` images have theirs. Every stage is an overlay on it. A container gets what
`docker run --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp` gives it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import psutil
from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

from tests.support.root import ROOT

STEP_TIMEOUT: Final = 600
"""Seconds; a step may install packages."""
NO_EFFECT_HERE: Final = {"ARG", "COMMENT", "EXPOSE", "LABEL", "STOPSIGNAL", "VOLUME"}
_MOUNT: Final = """
set -e
mkdir -p "$1.upper" "$1.work" "$1"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1.upper,workdir=$1.work" "$1"
mount --bind "$2" "$1/usr/local"
mount --bind /dev "$1/dev"
mount -t proc proc "$1/proc"
# Python finds its library where it was built, but other users may not look there.
chroot "$1" ldconfig
"""
_RUN: Final = """
set -e
root=$1 runtime=$2 bundles=$3
shift 3
mount --bind "$runtime" "$root/run/tykpy"
mount --bind "$bundles" "$root/opt/tyk-gateway/middleware/bundles"
mount -o remount,bind,ro "$root/opt/tyk-gateway/middleware/bundles"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


@dataclass
class Stage:
    """One stage of a Dockerfile while its steps are run."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entry_point: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


class Builder:
    """Holds a mount namespace with the file systems of all stages, which is gone with it."""

    def __init__(self, dockerfile: Path) -> None:
        self._steps: list[dict[str, Any]] = DockerfileParser(str(dockerfile)).structure
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "mount -t tmpfs tmpfs /mnt; echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stages: dict[str, Stage] = {}

    def __enter__(self) -> Self:
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    def inside(self, *command: str) -> list[str]:
        """Return a command that runs where the stages are mounted."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", *command]

    def build(self) -> Stage:
        """Run all steps; returns the last stage."""
        stage = Stage(Path())
        for step in self._steps:
            instruction, value = step["instruction"], step["value"]
            if instruction == "FROM":
                stage = self._begin(value)
            elif instruction not in NO_EFFECT_HERE:
                getattr(self, f"_{instruction.lower()}")(stage, value)
        return stage

    def _begin(self, value: str) -> Stage:
        image, _, name = value.partition(" AS ")
        assert image.startswith("python:"), image
        stage = Stage(Path("/mnt") / (name or f"stage{len(self._stages)}"), {"PATH": "/usr/local/bin:/usr/bin:/bin"})
        self._stages[name or str(len(self._stages))] = stage
        self._do("sh", "-c", _MOUNT, "sh", str(stage.root), sys.base_prefix)
        return stage

    def _copy(self, stage: Stage, value: str) -> None:
        *options, source, target = shlex.split(value)
        place = self._path(stage, target)
        if options:
            assert options == [f"--from={options[0].partition('=')[2]}"], value
            self._do("sh", "-c", 'mkdir -p "$2" && cp -a "$1/." "$2"', "sh", self._from(options[0], source), place)
            return
        assert source == ".", value
        names = exclude_paths(str(ROOT), (ROOT / ".dockerignore").read_text().splitlines())
        files = [name for name in names if (ROOT / name).is_file()]
        self._do("mkdir", "-p", place)
        self._do("sh", "-c", 'cd "$1" && shift && cp --parents --target-directory "$@"', "sh", str(ROOT), place, *files)

    def _from(self, option: str, source: str) -> str:
        return f"{self._stages[option.partition('=')[2]].root}{source}"

    def _run(self, stage: Stage, value: str) -> None:
        # How this machine reaches its package index, as a builder's own configuration does.
        index = {name: text for name, text in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
        environment = [f"{name}={text}" for name, text in {"HOME": "/root", **index, **stage.environment}.items()]
        shell = ["sh", "-c", f"cd {stage.folder} && {value}"]
        self._do("chroot", str(stage.root), "env", "-i", *environment, *shell)

    def _workdir(self, stage: Stage, value: str) -> None:
        stage.folder = value
        self._do("mkdir", "-p", f"{stage.root}{value}")

    def _env(self, stage: Stage, value: str) -> None:
        stage.environment |= dict(word.split("=", 1) for word in shlex.split(value))

    def _user(self, stage: Stage, value: str) -> None:
        stage.user = value

    def _entrypoint(self, stage: Stage, value: str) -> None:
        stage.entry_point = json.loads(value)

    def _cmd(self, stage: Stage, value: str) -> None:
        stage.command = json.loads(value)

    def _healthcheck(self, stage: Stage, value: str) -> None:
        stage.health = json.loads(re.sub(r"^.*?CMD ", "", value))

    def _path(self, stage: Stage, target: str) -> str:
        return str(stage.root) + os.path.normpath(os.path.join(stage.folder, target))

    def _do(self, *command: str) -> None:
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, check=False, timeout=STEP_TIMEOUT)
        assert done.returncode == 0, f"{shlex.join(command)[:500]}:\n{done.stdout}{done.stderr}"


class Container:
    """A stage's entry point as process 1, as its user, with a read-only root; stopped at the end with SIGTERM."""

    def __init__(self, builder: Builder, stage: Stage, runtime: Path, bundles: Path, *, owned: bool = True) -> None:
        self._stage = stage
        if owned:
            os.chown(runtime, *map(int, stage.user.split(":")))
        namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        places = [str(stage.root), str(runtime), str(bundles)]
        self._log = runtime / "container.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                builder.inside(
                    *namespaces, "sh", "-c", _RUN, "sh", *places, *self._as_user(), *stage.entry_point, *stage.command
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def init(self) -> int:
        """Its process 1, as this machine numbers it."""
        (pid,) = (int(child.pid) for child in psutil.Process(self._process.pid).children())
        return pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def execute(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as `docker exec` does."""
        enter = ["nsenter", "--target", str(self.init), "--mount", "--pid", "--root"]
        return subprocess.run(
            [*enter, *self._as_user(), *command], capture_output=True, text=True, check=False, timeout=60
        )

    def wait(self) -> int:
        """Wait until it ends; returns the exit code."""
        return self._process.wait(60)

    def stop(self) -> int:
        """Stop it as `docker stop` does; returns the exit code."""
        if self._process.poll() is None:
            os.kill(self.init, signal.SIGTERM)
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _as_user(self) -> list[str]:
        uid, gid = self._stage.user.split(":")
        become = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
        environment = [f"{name}={text}" for name, text in self._stage.environment.items()]
        return ["setpriv", *become, "--no-new-privs", "env", "-i", "-C", self._stage.folder, *environment]


def why_unavailable() -> str:
    """Return what this machine lacks to run containers in this way, or nothing."""
    missing = [name for name in ("unshare", "nsenter", "setpriv", "chroot") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        return "only root can mount file systems" if os.geteuid() else f"not on this machine: {', '.join(missing)}"
    probe = 'mount -t tmpfs t /mnt; mkdir /mnt/u /mnt/w /mnt/m; mount -t overlay o -o "$1" /mnt/m'
    options = "lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "sh", "-ec", probe, "sh", options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stderr and f"no overlay file systems here: {done.stderr.strip()}"
