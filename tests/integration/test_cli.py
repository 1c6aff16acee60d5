"""The console script: output, exit codes and readable errors."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.broker import TYKPY, RunningBroker, running_broker, wait_until
from tests.support.hooks import SOURCE
from tykpy.cli import main


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TYKPY, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_broker(tmp_path_factory.mktemp("broker"), files={"hooks.py": SOURCE}) as running:
        yield running


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout.strip() == f"tykpy, version {version('tykpy')}"


@pytest.mark.parametrize("command", ["broker", "call", "hooks", "status", "reload", "scale", "check-config", "config"])
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert len(done.stdout) > 200


def test_call_shows_what_a_hook_changed(broker: RunningBroker) -> None:
    done = run("call", "echo", "--bundle", "hooks", "-H", "Nonce: abc", "--connect", broker.address)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("echo answered in ")
    assert rest == ["  + request.set_headers['Nonce']: 'abc'"]


def test_call_names_the_bundle_that_is_not_there(broker: RunningBroker) -> None:
    """The broker knows only the hash of its name."""
    done = run("call", "echo", "--bundle", "hoks", "--connect", broker.address)
    assert done.returncode == 1
    assert "NOT_FOUND: no bundle with the name hoks in " in done.stderr
    assert "there are: hooks.py" in done.stderr


def test_call_prints_the_whole_object_as_json(broker: RunningBroker) -> None:
    flags = ("--type", "CustomKeyCheck", "-H", "Authorization: secret", "--json", "--runtime-dir", str(broker.runtime))
    done = run("call", "check_key", *flags)
    answer = json.loads(done.stdout)
    assert answer["session"]["metadata"] == {"token": "secret"}


def test_call_takes_an_object_from_a_file(broker: RunningBroker, tmp_path: Path) -> None:
    whole = {"hook_type": "Pre", "hook_name": "echo", "request": {"headers": {"Nonce": "from a file"}}}
    (tmp_path / "object.json").write_text(json.dumps(whole))
    done = run("call", "--object", str(tmp_path / "object.json"), "--connect", broker.address)
    assert "+ request.set_headers['Nonce']: 'from a file'" in done.stdout


def test_call_sends_an_event(broker: RunningBroker) -> None:
    done = run("call", "on_failure", "--type", "Event", "--message", '{"Type": "Quota"}', "--connect", broker.address)
    assert done.stdout.startswith("on_failure took the event in ")
    assert broker.call("last_event", bundle="hooks").request.set_headers["Last-Event"] == "Quota"


def test_call_sends_a_response(broker: RunningBroker, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"\xff\x00")
    flags = ("--type", "Response", "--response-body", f"@{tmp_path / 'body'}", "--response-header", "A: b")
    done = run("call", "stamp", *flags, "--connect", broker.address)
    assert r"b'\xff\x00' -> b'changed \xff\x00'" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nothing", "--bundle", "hooks"), "NOT_FOUND"),
        (("raises", "--bundle", "hooks"), "of no use"),
        (("echo", "--object", "nowhere.json"), "not both"),
        ((), "the name of a hook"),
        (("--object", "nowhere.json"), "nowhere.json"),
        (("echo", "-H", "no colon"), "NAME:VALUE"),
        (("echo", "--session", "{"), "not JSON"),
        (("echo", "--session", '{"no_such_field": 1}'), "no_such_field"),
        (("echo", "--session", "[]"), "not a JSON object"),
        (("echo", "--url", "/\udcff"), "this call cannot be made: 'utf-8' codec"),
        (("echo", "--url", "http://[::1"), "this call cannot be made: Invalid IPv6 URL"),
        (("echo", "--header", "a: \udcff"), "is not UTF-8"),
        (("echo", "--session", "[" * 100_000), "not JSON: maximum recursion depth"),
        (("echo", "--type", "Response", "--response-status", "9" * 20), "this call cannot be made: Value out of range"),
    ],
)
def test_call_reports_errors_without_a_traceback(broker: RunningBroker, arguments: tuple[str, ...], text: str) -> None:
    done = run("call", *arguments, "--connect", broker.address)
    assert done.returncode != 0
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_call_without_a_broker_names_the_address(tmp_path: Path) -> None:
    done = run("call", "echo", "--connect", f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1
    looked = f"no broker answers at unix://{tmp_path}/none.sock (No such file or directory)"
    assert done.stderr == f"tykpy: {looked}; is --connect, or --runtime-dir, the broker's own?\n"


def test_hooks_shows_bundle_hook_type_shape_and_place(broker: RunningBroker) -> None:
    done = run("hooks", "--runtime-dir", str(broker.runtime))
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line}
    assert "CustomKeyCheck  (request, session, metadata, spec)" in rows["check_key"]
    assert "async (request, session, spec)" in rows["gated_async"]
    assert f"{broker.bundles}/hooks.py:" in rows["stamp"]


def test_hooks_of_a_folder_reports_broken_bundles(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(SOURCE)
    (tmp_path / "bad.py").write_text("import no_such_module\n")
    done = run("hooks", "--bundles", str(tmp_path))
    assert done.returncode == 1
    assert "check_key" in done.stdout
    assert "bad.py:1" in done.stderr
    assert "no_such_module" in done.stderr
    # Each problem is printed once, not a second time as a worker's log.
    assert [line for line in done.stderr.splitlines() if not line.startswith("problem: ")] == []


def test_hooks_without_a_broker_names_the_socket(tmp_path: Path) -> None:
    done = run("hooks", "--runtime-dir", str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path / "admin.sock") in done.stderr
    assert "Traceback" not in done.stderr


def test_status_for_scripts_is_json(broker: RunningBroker) -> None:
    status = json.loads(run("status", "--json", "--runtime-dir", str(broker.runtime)).stdout)
    assert status["pid"] == broker.pid
    assert [worker["state"] for worker in status["workers"]] == ["ready"]


def test_status_for_people_fits_80_columns(broker: RunningBroker) -> None:
    broken = "a_bundle_with_a_rather_long_name_that_cannot_be_loaded_as_it_is_broken.py"
    (broker.bundles / broken).write_text("import no_such_module\n")
    try:
        assert run("reload", "--runtime-dir", str(broker.runtime)).returncode == 0
        done = run("status", "--runtime-dir", str(broker.runtime))
    finally:
        (broker.bundles / broken).unlink()
        run("reload", "--runtime-dir", str(broker.runtime))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"tykpy         {version('tykpy')}, process {broker.pid}, up ")
    assert lines[1] == "state         ready"
    # The new bundle may have been found before the reload, and loaded by a worker of its own.
    assert re.fullmatch("workers       1 of 1 ready; replaced for: [0-9]+ reload", lines[2])
    assert any(line.startswith("last reload   ok, in ") for line in lines)
    assert "No module named 'no_such_module'" in " ".join(done.stdout.split())
    assert lines[-2].split() == ["WORKER", "PID", "STATE", "UP", "BUSY", "HANDLED", "IN", "FLIGHT", "THREADS"]


@pytest.mark.parametrize("arguments", [("reload",), ("scale", "2")])
def test_missing_broker_is_reported(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--runtime-dir", str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path / "admin.sock") in done.stderr
    assert "Traceback" not in done.stderr


def test_refused_number_of_workers_is_reported(broker: RunningBroker) -> None:
    done = run("scale", "0", "--runtime-dir", str(broker.runtime))
    assert done.returncode == 1
    assert "scale refused: 0 workers: must be between 1 and 512" in done.stderr


def test_check_config_shows_every_option_and_no_secret(tmp_path: Path) -> None:
    flags = ("--runtime-dir", str(tmp_path / "run"), "--bundles", str(tmp_path))
    done = run(
        "check-config", *flags, TYKPY_REDIS="redis://:hidden@localhost/0?sentinel_password=hidden", TYKPY_WORKERS="3"
    )
    assert done.returncode == 0, done.stdout
    assert "hidden" not in done.stdout
    assert "redis://***@localhost/0" in done.stdout
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("--"))
    assert lines["--workers"] == "3"
    assert done.stdout.splitlines()[-1] == "ok"


def test_check_config_reports_what_would_fail_in_the_broker(broker: RunningBroker, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    flags = ("--runtime-dir", str(tmp_path), "--bundles", str(tmp_path), "--listen", broker.address)
    done = run("check-config", *flags)
    assert done.returncode == 1
    assert str(broker.pid) in done.stdout
    assert "bad.py:1" in done.stdout


def test_a_running_broker_is_no_problem_for_its_own_options(broker: RunningBroker) -> None:
    flags = ("--runtime-dir", str(broker.runtime), "--bundles", str(broker.bundles))
    done = run("check-config", *flags)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok"), done.stdout
    assert f"process {broker.pid} is the running broker" in done.stdout


def test_help_lists_every_command_on_a_line_of_its_own() -> None:
    sections = run("--help", COLUMNS="80").stdout.partition("Write plugins:")[2]
    listed = re.findall(r"^  (\S+)  +\S", sections, re.MULTILINE)
    assert sorted(listed) == sorted(main.commands)
    assert "..." not in sections, "a summary is cut off"


def test_a_closed_pipe_is_no_error_message(broker: RunningBroker) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [TYKPY, "status", "--runtime-dir", str(broker.runtime)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)
    assert done.stderr == ""


def test_flags_override_environment_which_overrides_file(tmp_path: Path) -> None:
    (tmp_path / "tykpy.toml").write_text('workers = 5\nthreads = 6\ntimeout = 7.5\nsocket-mode = "0660"\n')
    flags = ("--config", str(tmp_path / "tykpy.toml"), "--runtime-dir", str(tmp_path), "--bundles", str(tmp_path))
    done = run("check-config", *flags, "--workers", "2", TYKPY_WORKERS="3", TYKPY_THREADS="4")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("--"))
    assert (lines["--workers"], lines["--threads"], lines["--timeout"]) == ("2", "4", "7.5s")
    assert lines["--socket-mode"] == "0660"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers = [", "tykpy.toml"),
        ("bundles = here", "not TOML, where text is in quotes: "),
        ("worker = 3", "unknown option 'worker'"),
        ("workers = 0", "--workers 0"),
    ],
)
def test_error_names_a_bad_config_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "tykpy.toml").write_text(text)
    done = run("broker", "--config", str(tmp_path / "tykpy.toml"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_file_that_is_missing_is_told(tmp_path: Path) -> None:
    done = run("broker", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert done.stderr.endswith("none.toml: No such file or directory\n")


def test_the_default_is_one_worker_per_usable_cpu(tmp_path: Path, broker: RunningBroker) -> None:
    cpu = min(os.sched_getaffinity(0))
    done = subprocess.run(
        ["taskset", "-c", str(cpu), TYKPY, "check-config", "--runtime-dir", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert re.search(r"^--workers +1$", done.stdout, re.MULTILINE)
    assert "CPUs that may be used: 1 (CP" in done.stdout
    assert re.search(r"tykpy.broker: 1 worker; CPUs that may be used: \d+ \(", broker.log)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--listen", "http://x:80"], 2, "is not an address"),
        (["--listen", "tls://127.0.0.1:0", "--tls-cert", "/nonexistent"], 2, "--tls-cert"),
        (["--socket-group", "nobody-has-this"], 2, "no group"),
        (["--listen", "unix:///nonexistent/s"], 4, "No such file"),
        (["--listen", "unix://{runtime}/tyk.sock"], 4, "in use by process"),
        (["--runtime-dir", "{runtime}"], 4, "only one broker can use --runtime-dir {runtime}, give this one another"),
    ],
)
def test_usage_errors_and_busy_addresses_have_exit_codes(
    broker: RunningBroker, tmp_path: Path, flags: list[str], code: int, said: str
) -> None:
    flags = [flag.format(runtime=broker.runtime) for flag in flags]
    said = said.format(runtime=broker.runtime)
    done = run("broker", "--runtime-dir", str(tmp_path), "--workers", "1", *flags)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"hooks.py": SOURCE, "bad.py": "import no_such_module\n"}, r"2 bundles, \d+ hooks; not loaded completely: 1 "),
        ({}, r"no bundle in .*/bundles yet"),
    ],
)
def test_the_start_says_what_is_served(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with running_broker(tmp_path, files=files) as broker:
        wait_until(lambda: "1 of 1 workers ready: " in broker.log, lambda: broker.log)
        assert re.search(f"INFO +tykpy.broker: 1 of 1 workers ready: {said}", broker.log), broker.log


def test_a_start_without_bundles_is_a_warning(tmp_path: Path) -> None:
    with subprocess.Popen([TYKPY, "broker", "--runtime-dir", tmp_path], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "ready: nothing" in line)
        process.terminate()
    assert "nothing to serve, there is no --bundles" in said
    assert '"level":"warning"' in said


def test_ctrl_c_stops_the_broker_with_0(tmp_path: Path) -> None:
    with running_broker(tmp_path, files={"hooks.py": SOURCE}) as broker:
        os.kill(broker.pid, signal.SIGINT)
        assert broker.wait() == 0


@pytest.mark.parametrize("by", ["flag", "environment", "file"])
def test_sizes_and_times_may_have_units(tmp_path: Path, by: str) -> None:
    wanted = {"queue-bytes": "512MiB", "timeout": "1500ms", "limit-cpu": "2m", "max-body": "16MB"}
    flags = [f"--{name}={value}" for name, value in wanted.items()] if by == "flag" else []
    environment = {f"TYKPY_{name.upper().replace('-', '_')}": value for name, value in wanted.items()}
    (tmp_path / "tykpy.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in wanted.items()))
    if by == "file":
        flags = ["--config", str(tmp_path / "tykpy.toml")]
    done = run("check-config", "--runtime-dir", str(tmp_path), *flags, **(environment if by == "environment" else {}))
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("--"))
    found = {name: lines[f"--{name}"] for name in wanted}
    assert found == {"queue-bytes": "512MiB", "timeout": "1.5s", "limit-cpu": "2m", "max-body": "16MB"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("broker", "--queue-bytes", "5K"),
            "'--queue-bytes' (env var: 'TYKPY_QUEUE_BYTES'): '5K' is not a size: give bytes, or a number with KiB",
        ),
        (
            ("broker", "--timeout", "5x"),
            "'--timeout' (env var: 'TYKPY_TIMEOUT'): '5x' is not a time: give seconds, or a number with ms, s",
        ),
        (("broker", "--limit-cpu", "1.5s"), "(env var: 'TYKPY_LIMIT_CPU'): 1.5s is not a whole number of seconds"),
        (("broker", "--grace", "2h"), "--grace 2h: must be between 0 and 1h"),
        (("call", "h", "--timeout", "5x"), "'--timeout': '5x' is not a time"),
        (("reload", "--timeout", "5x"), "'--timeout': '5x' is not a time"),
        (("bench", "--seconds", "2h"), "'--seconds': 2h: must be between 100ms and 1h"),
        (("bench", "--body-size", "1MiB,5K"), "'1MiB,5K': give bytes, or a number with KiB"),
    ],
)
def test_an_impossible_size_or_time_is_explained(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
