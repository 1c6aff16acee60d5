"""The README: every command and every file that it shows is executed."""

import contextlib
import html
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.generate_docs import generated
from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tests.support.bundles import md5
from tests.support.dev_command import DevCommand
from tests.support.peers.redis_server import free_port
from tests.support.readme import README, blocks, first_middleware, json_block
from tests.support.root import ROOT
from tykpy.commands.lint.compiled import SUPPORTED

TIMEOUT = 110


def commands() -> list[str]:
    """Return every command line, without its comment."""
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [line.split("  #")[0].strip() for line in lines]


def shell(command: str, folder: Path, **environment: str) -> str:
    """Run a command line as a user would, with our tykpy first on the path."""
    path = f"{Path(TYKPY).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True,
        text=True, check=False, timeout=TIMEOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_run(_tmp_path: Path) -> None:
    # The command of `make run`, in the environment of this test instead of a new one.
    recipe = shell("make --dry-run --silent --assume-old=.venv/.installed run VENV=.venv", ROOT)
    assert "-m examples.demo" in recipe
    assert "all calls did what the bundle says" in shell(f"{sys.executable} -m examples.demo", ROOT)


def make_test(_tmp_path: Path) -> None:
    # Not executed: it would run this test again.
    recipe = shell("make --dry-run test", ROOT)
    for part in ("ruff check", "mypy", "lint-imports", "scripts/test-all", "scripts/test-other-pythons"):
        assert part in recipe
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


def pip_install(tmp_path: Path) -> None:
    # Only tykpy itself, from its own wheel; its dependencies are those of this test.
    target = tmp_path / "site"
    shell(f"{sys.executable} -m pip install --quiet --no-deps --target {target} .", ROOT)
    probe = (
        "import gateway, tyk.gateway; from tykpy import cli;"
        "assert gateway.TykGateway is tyk.gateway.TykGateway; print(cli.__file__)"
    )
    where = shell(f"{sys.executable} -P -c '{probe}'", tmp_path, PYTHONPATH=str(target))
    assert where.strip() == str(target / "tykpy" / "cli.py")


def version(tmp_path: Path) -> None:
    assert "tykpy, version" in shell("tykpy --version", tmp_path)


def first_hook(tmp_path: Path) -> None:
    """The picture shows the same: scripts/dev_pictures.py makes it."""
    source = tmp_path / command_starting("tykpy dev").split()[-1]
    source.parent.mkdir()
    source.write_text(first_middleware())
    picture = html.unescape((ROOT / "docs" / "dev.svg").read_text()).replace("\xa0", " ")
    with DevCommand(source, tmp_path / "log") as dev:
        echoed = json.loads(shell(command_starting("curl localhost").replace("8080", str(dev.port)), tmp_path))
        assert echoed["headers"]["X-Hello"] == "from Python"
        for line in ("request.set_headers['X-Hello']: 'from Python'", "hello.py, 1 hook", "GET /orders"):
            dev.wait_for(line)
            assert line in re.sub("<[^>]+>", "", picture)


def first_call(tmp_path: Path) -> None:
    flags = shlex.split(command_starting("tykpy broker --workers 2"))[2:]
    assert flags == ["--workers", "2", "--bundles", "plugins"]
    with running_broker(tmp_path, workers=2, files={"hello.py": first_middleware()}) as broker:
        said = {"TYKPY_RUNTIME_DIR": str(broker.runtime)}
        shown = shell(command_starting("tykpy call"), tmp_path, **said)
        (expected,) = [block.splitlines()[1] for block in blocks("text") if "add_hello answered" in block]
        assert expected in shown.splitlines()
        listed = shell(command_starting("tykpy hooks"), tmp_path, **said)
        assert re.search(r"hello(\.py)? +add_hello +Pre", listed)


def behind_a_gateway(tmp_path: Path) -> None:
    """All but the gateway's own part, which tests/gateway/test_readme.py has."""
    write_bundle(tmp_path / "hello")
    shell(command_starting("tykpy bundle build"), tmp_path)
    conf, definition = json_block('"bundle_base_url"'), json_block('"custom_middleware_bundle"')
    serves = command_starting("python3 -m http.server")
    assert conf["bundle_base_url"] == "http://127.0.0.1:8000/"
    assert "8000 --bind 127.0.0.1" in serves
    with web_server(serves, tmp_path) as port:
        url = f"http://127.0.0.1:{port}/{definition['custom_middleware_bundle']}"
        packed = urllib.request.urlopen(url, timeout=TIMEOUT).read()
    flags = shlex.split(command_starting("tykpy broker --bundles"))[2:]
    values = dict(zip(flags[::2], flags[1::2], strict=True))
    assert values.keys() == {"--bundles", "--apis", "--user"}
    assert conf["coprocess_options"]["coprocess_grpc_server"] == "unix:///run/tykpy/tyk.sock"
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "hello.json").write_text(json.dumps(definition))
    broker = RunningBroker(tmp_path, "--apis", str(tmp_path / "apps"))
    zipfile.ZipFile(io.BytesIO(packed)).extractall(broker.bundles / md5("hello.zip"))
    with broker:
        assert broker.call("add_hello", bundle="hello.zip").request.set_headers["X-Hello"] == "from Python"
        shown = shell("tykpy hooks", tmp_path, TYKPY_RUNTIME_DIR=str(broker.runtime))
    assert re.search(rf"{md5('hello.zip')} +hello.zip +Hello +1 +loaded", shown)
    assert command_starting("curl http") == f"curl http://127.0.0.1:8080{definition['proxy']['listen_path']}"


def write_bundle(folder: Path) -> None:
    folder.mkdir()
    (folder / "middleware.py").write_text(first_middleware())
    (folder / "manifest.json").write_text(json.dumps(json_block('"file_list"')))


@contextlib.contextmanager
def web_server(command: str, folder: Path) -> Iterator[int]:
    """Return the README's server, on a free port."""
    port = free_port()
    words = shlex.split(command.replace("8000", str(port)))
    server = subprocess.Popen([sys.executable, *words[1:]], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port), lambda: command)
        yield port
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def command_starting(text: str) -> str:
    return next(command for command in commands() if command.startswith(text))


EXECUTED: dict[str, Callable[[Path], None]] = {
    "make run": make_run,
    "make test": make_test,
    "pip install": pip_install,
    "tykpy --version": version,
    "tykpy broker --workers 2": first_call,
    "tykpy call": first_call,
    "tykpy hooks": first_call,
    "tykpy bundle build": behind_a_gateway,
    "python3 -m http.server": behind_a_gateway,
    "tykpy broker --bundles": behind_a_gateway,
    "curl http": behind_a_gateway,
    "tykpy dev": first_hook,
    "curl localhost": first_hook,
}


@pytest.mark.parametrize("execute", dict.fromkeys(EXECUTED.values()), ids=lambda one: one.__name__)
def test_the_commands_do_what_the_readme_says(tmp_path: Path, execute: Callable[[Path], None]) -> None:
    execute(tmp_path)


def test_every_command_of_the_readme_is_executed() -> None:
    unknown = [command for command in commands() if not command.startswith(tuple(EXECUTED))]
    assert not unknown


def test_commands_within_sentences_exist(tmp_path: Path) -> None:
    named = set(re.findall(r"`tykpy ([a-z-]+)", README))
    usage = shell("tykpy --help", tmp_path)
    assert named
    assert not [command for command in named if not re.search(rf"^  {command} ", usage, re.MULTILINE)]
    targets = set(re.findall(r"`make ([a-z]+)`", README))
    makefile = (ROOT / "Makefile").read_text()
    assert not [target for target in targets if f"\n{target}:" not in makefile]


def test_links_have_targets() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_claimed_versions_are_tested() -> None:
    """`scripts/test-other-pythons` tests what setup.cfg claims."""
    claimed = re.findall(r"Python :: (3\.\d+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert tuple(claimed) == SUPPORTED
    assert f"Python {claimed[0]} to {claimed[-1]}" in README
    tested = "for minor in $(sed -n 's/.*Python :: \\(3\\.[0-9]*\\)$/\\1/p' setup.cfg); do"
    assert tested in (ROOT / "scripts" / "test-other-pythons").read_text()


def test_the_table_of_options_is_up_to_date() -> None:
    assert {path: path.read_text() for path in generated()} == generated(), "run make docs"
