"""`tykpy bundle` and `tykpy lint` as console commands, and a broker that trusts only one key."""

import subprocess
from pathlib import Path

import pytest

from tests.support.broker import TYKPY, RunningBroker
from tests.support.bundles import write_bundle
from tests.support.keys import private_pem, public_pem
from tykpy.bundles.files.archive import unpack
from tykpy.client.grpc import GrpcCallError

HOOK = '@Pre\ndef hook(request, session, spec):\n    request.add_header("X-Ran", "yes")\n    return request, session\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "mine", {"middleware.py": HOOK, "lib/x.py": "X = 1\n"}, pre=[{"name": "hook"}])


def tykpy(*arguments: object, cwd: Path | None = None, code: int = 0) -> str:
    """Run a command that must end with this code; return everything that it printed."""
    done = subprocess.run(
        [TYKPY, *map(str, arguments)], cwd=cwd, text=True, timeout=60, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def refusal(broker: RunningBroker, bundle: str) -> str:
    with pytest.raises(GrpcCallError) as caught:
        broker.call("hook", bundle=bundle)
    return caught.value.message


def test_builds_in_two_processes_are_identical(source: Path, tmp_path: Path) -> None:
    key = private_pem(tmp_path)
    for name in ("one.zip", "two.zip"):
        tykpy("bundle", "build", source, "-o", tmp_path / name, "-k", key)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_zip_is_named_after_the_folder_and_written_here(source: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    tykpy("bundle", "build", source, cwd=tmp_path / "here")
    tykpy("bundle", "build", ".", "-o", "here.zip", cwd=source)
    assert (tmp_path / "here" / "mine.zip").is_file()


def test_notes_and_problems_come_without_a_traceback(source: Path, tmp_path: Path) -> None:
    (source / "more.py").write_text("")
    printed = tykpy("bundle", "build", source, "-o", tmp_path / "a.zip")
    assert "note: more.py is not in file_list, and not packed" in printed
    (source / "lib" / "x.py").unlink()
    printed = tykpy("bundle", "build", source, "-o", tmp_path / "b.zip", code=1)
    assert printed == f"tykpy: {source}: lib/x.py is in file_list and cannot be read: No such file or directory\n"
    assert not (tmp_path / "b.zip").exists()


def test_verify_ends_with_1_where_something_is_wrong(source: Path, tmp_path: Path) -> None:
    tykpy("bundle", "build", source, "-o", tmp_path / "a.zip")
    tykpy("bundle", "verify", tmp_path / "a.zip")
    printed = tykpy("bundle", "verify", tmp_path / "a.zip", "--public-key", public_pem(tmp_path), code=1)
    assert "FAILED signature: the bundle is not signed" in printed
    assert "tykpy: " in tykpy("bundle", "verify", tmp_path / "none.zip", code=1)


def test_lint_ends_with_1_where_something_was_found(source: Path, tmp_path: Path) -> None:
    said = tykpy("lint", source).splitlines()
    assert said[0] == "nothing found in 2 Python files"
    assert said[1].startswith("not checked: modules from outside the bundle")
    (tmp_path / "typo.py").write_text("from tyk.decorators import *\n@Pre\ndef hook(request): pass\n")
    printed = tykpy("lint", source, tmp_path / "typo.py", code=1)
    assert printed.startswith(f"{tmp_path}/typo.py:3:1: hook-arguments: ")
    assert "no such file or folder" in tykpy("lint", tmp_path / "none", code=1)


def test_convert_says_that_nothing_is_written(source: Path) -> None:
    assert "nothing is written; give OUTPUT" in tykpy("bundle", "convert", source)


def test_a_converted_bundle_runs(source: Path, tmp_path: Path) -> None:
    manifest = source / "manifest.json"
    manifest.write_text(manifest.read_text().replace("grpc", "python"))
    broker = RunningBroker(tmp_path)
    tykpy("bundle", "convert", source, broker.bundles / "converted")
    code = (
        "@Hook\ndef {0}(request, session, spec):\n    request.object.raw_body += b'{0} '\n    return request, session\n"
    )
    pre = [{"name": "second"}, {"name": "off", "disabled": True}, {"name": "first"}]
    files = {"middleware.py": "".join(map(code.format, ("first", "second", "off")))}
    shop = write_bundle(tmp_path / "shop", files, driver="python", pre=pre)
    assert 'the driver is "python"' in tykpy("bundle", "build", shop, "-o", tmp_path / "no.zip", "--chain", code=1)
    said = tykpy("bundle", "convert", shop, broker.bundles / "shop.zip", "--chain")
    assert 'manifest.json: chain: pre: the gateway makes one call, "*", which runs second, off, first' in said
    with broker:
        assert broker.call("hook", bundle="converted").request.set_headers["X-Ran"] == "yes"
        assert broker.call("*", hook_type="Pre", bundle="shop.zip").request.raw_body == b"second first "


def test_broker_with_public_key_runs_only_signed_bundles(source: Path, tmp_path: Path) -> None:
    broker = RunningBroker(tmp_path, "--public-key", str(public_pem(tmp_path)))
    for name, key in (("good", "ours"), ("theirs", "theirs")):
        tykpy("bundle", "build", source, "-o", broker.bundles / f"{name}.zip", "-k", private_pem(tmp_path, name=key))
    tykpy("bundle", "build", source, "-o", broker.bundles / "unsigned.zip")
    altered = unpack(broker.bundles / "good.zip", tmp_path / "unpacked").rename(broker.bundles / "altered")
    (altered / "lib" / "x.py").write_text("X = 2\n")
    with broker:
        assert broker.call("hook", bundle="good.zip").request.set_headers["X-Ran"] == "yes"
        assert "manifest.json: the signature is not one of these files by this key" in refusal(broker, "theirs.zip")
        assert "the bundle is not signed; sign it: tykpy bundle build" in refusal(broker, "unsigned.zip")
        assert "the checksum is" in refusal(broker, "altered")
        assert "bundle unsigned.zip: " in broker.log


def test_bundle_that_appears_later_is_verified(source: Path, tmp_path: Path) -> None:
    with RunningBroker(tmp_path, "--public-key", str(public_pem(tmp_path))) as broker:
        tykpy("bundle", "build", source, "-o", broker.bundles / "late.zip")
        assert "the bundle is not signed" in refusal(broker, "late.zip")
        tykpy("bundle", "build", source, "-o", broker.bundles / "late.zip", "-k", private_pem(tmp_path))
        assert broker.call("hook", bundle="late.zip").request.set_headers["X-Ran"] == "yes"


def test_check_config_names_refused_bundles(source: Path, tmp_path: Path) -> None:
    tykpy("bundle", "build", source, "-o", tmp_path / "bundles" / "unsigned.zip")
    flags = "check-config", "--runtime-dir", tmp_path / "run", "--bundles", tmp_path / "bundles"
    tykpy(*flags)
    assert "problem: bundle unsigned.zip: " in tykpy(*flags, "--public-key", public_pem(tmp_path), code=1)
    assert "not a public key in PEM" in tykpy(*flags, "--public-key", private_pem(tmp_path), code=1)
    assert "--public-key none.pem: no such file" in tykpy(*flags, "--public-key", "none.pem", code=2)


def test_broker_with_invalid_key_does_not_start(tmp_path: Path) -> None:
    with RunningBroker(tmp_path, "--public-key", str(private_pem(tmp_path))).unready() as broker:
        assert broker.wait() == 3
        assert "not a public key in PEM" in broker.log
