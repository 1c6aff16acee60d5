"""Section 6: bundles, unpacked by the gateway into the folder that the broker watches."""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import TYKPY
from tests.support.bundles import md5
from tests.support.gateway.gateway import Api
from tests.support.gateway.go_gateway import go_program
from tests.support.gateway.table import Table, source_files, write_bundle
from tests.support.gateway.tyk import any_gateway
from tests.support.keys import private_pem, public_pem

FROM_5_15 = "several bundles exist from v5.15, and a gateway built from source says another version"
NO_FETCH = "it does not fetch bundles"
SAYS_ITS_NAME = """
    import json
    from tyk.decorators import *
    import ipc, workers, broker, common

    @Pre
    def say_modules(request, session, spec):
        import lazy
        from ipc import frame
        names = [common.NAME, lazy.NAME, ipc.NAME, frame.NAME, workers.NAME, broker.NAME]
        request.object.return_overrides.response_code = 200
        request.object.return_overrides.response_body = json.dumps(names)
        return request, session
    """


def named_bundle(name: str) -> dict[str, str]:
    """Return files with module names that another bundle and tykpy use too."""
    modules = ["common.py", "lazy.py", "ipc/__init__.py", "ipc/frame.py", "workers.py", "broker/__init__.py"]
    return {"middleware.py": SAYS_ITS_NAME, **{file: f"NAME = {name + ' ' + file!r}" for file in modules}}


def adds_header(name: str, value: str) -> str:
    """Return a bundle's code with one hook that appends to X-Order."""
    return f"""
        from tyk.decorators import *

        @Hook
        def {name}(request, session, spec):
            request.add_header("X-Order", (request.get_header("X-Order") or "") + {value!r})
            return request, session
        """


def test_a_new_bundle_is_found_by_its_first_dispatch(table: Table) -> None:
    api = table.api({"middleware.py": adds_header("first_ever", "1")}, pre=["first_ever"])
    folder = table.broker.bundles / md5(api.definition["custom_middleware_bundle"])
    assert (folder / "manifest.json").is_file()
    assert [api.send().upstream.headers["X-Order"] for _ in range(6)] == [["1"]] * 6


def test_a_one_file_bundle_is_that_file(table: Table) -> None:
    api = table.api({"the_only_one.py": adds_header("of_one_file", "1")}, pre=["of_one_file"])
    assert api.send().upstream.headers["X-Order"] == ["1"]


def test_bundle_files_are_importable_also_from_packages(table: Table) -> None:
    api = table.api("packages", pre=["report_modules"])
    assert api.send().json == ["a file beside middleware.py", 42, "late, 42"]


def test_bundles_and_tykpy_may_use_the_same_names_also_lazily(table: Table) -> None:
    apis = [table.api(named_bundle(name), pre=["say_modules"]) for name in ("one", "two")]
    for api, name in [*zip(apis, ("one", "two"), strict=True)] * 4:
        said = api.send().json
        assert len(said) == 6
        assert {text.split()[0] for text in said} == {name}


@pytest.mark.harness(FROM_5_15)
@pytest.mark.parametrize("names", ["of-one/team.zip,of-two/team.zip", "b.zip, a.zip"])
def test_folders_and_spaces_in_several_names_keep_the_order(table: Table, names: str) -> None:
    files = [name.strip() for name in names.split(",")]
    for number, file in enumerate(files):
        (table.folder / file).parent.mkdir(exist_ok=True)
        code = adds_header(f"hook_{number}", f"{number}")
        write_bundle(table.folder / file, {"middleware.py": code}, pre=[f"hook_{number}"])
    api = table.api(None, bundle=names)
    assert api.send().upstream.headers["X-Order"] == ["01"]
    assert [name for _, name in api.dispatches()] == ["hook_0", "hook_1"]


@pytest.mark.harness(FROM_5_15)
def test_several_bundles_append_their_hooks_in_order(table: Table) -> None:
    for name in ("zebra", "ant", "newt"):
        write_bundle(
            table.folder / f"{name}.zip", {"middleware.py": adds_header(f"of_{name}", name[0])}, pre=[f"of_{name}"]
        )
    api = table.api(None, bundle="zebra.zip,ant.zip,newt.zip")
    root = table.broker.bundles / md5("zebra.zip,ant.zip,newt.zip")
    assert sorted(folder.name for folder in root.iterdir()) == ["ant", "newt", "zebra"]
    assert api.send().upstream.headers["X-Order"] == ["zan"]
    assert [name for _, name in api.dispatches()] == ["of_zebra", "of_ant", "of_newt"]


def test_disabled_hooks_are_not_called(table: Table) -> None:
    hooks = [{"name": "on", "disabled": False}, {"name": "off", "disabled": True}]
    api = table.api({"middleware.py": adds_header("on", "1") + adds_header("off", "0")}, pre=hooks)
    assert api.send().upstream.headers["X-Order"] == ["1"]
    assert api.dispatches() == [("Pre", "on")]


def test_the_checksum_is_that_of_the_files_in_their_order(table: Table) -> None:
    files = {"middleware.py": adds_header("summed", "1"), "b.py": "B = 1", "a.py": "A = 1"}
    path = write_bundle(table.folder / "summed.zip", files, pre=["summed"])
    with zipfile.ZipFile(path) as archive:
        listed = json.loads(archive.read("manifest.json"))
        content = b"".join(archive.read(name) for name in listed["file_list"])
    assert listed["checksum"] == hashlib.md5(content).hexdigest()
    assert table.api(None, bundle="summed.zip").send().upstream.headers["X-Order"] == ["1"]


@pytest.mark.not_dev(NO_FETCH)
def test_an_altered_bundle_accepted_by_the_gateway_does_not_run(table: Table) -> None:
    api = table.api({"middleware.py": adds_header("altered", "1")}, pre=["altered"])
    folder = table.broker.bundles / md5(api.definition["custom_middleware_bundle"])
    with (folder / "middleware.py").open("a") as file:
        file.write("\n# one more line")
    assert api.send().status == 500
    table.broker.wait_for_log("checksum")


def signed(bundle: Path, folder: Path, target: Path) -> None:
    """Copy a bundle and sign it with Go."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder / "unpacked")
    command = [go_program("bundlecrypto"), "sign", "--key", str(private_pem(folder)), str(folder / "unpacked")]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in (folder / "unpacked").iterdir():
            archive.write(path, path.name)


def test_signatures_are_rsa_sha256_and_unsigned_is_refused(table: Table, tmp_path: Path) -> None:
    files = {"middleware.py": adds_header("of_the_signed", "1")}
    unsigned = write_bundle(table.folder / "unsigned.zip", files, pre=["of_the_signed"])
    signed(unsigned, tmp_path, table.folder / "signed.zip")
    settings = {"redis_socket": table.gateway.config["redis_socket"], "bundle_source": str(table.folder)}
    keys = {"public_key_path": str(public_pem(tmp_path)), "middleware_path": str(table.folder)}
    with any_gateway(tmp_path, table.broker.address, **settings, **keys) as gateway:
        with pytest.raises(ValueError, match=r"undle is(n't| not) signed"):
            table.api(None, bundle="unsigned.zip", gateway=gateway)
        api = table.api(None, bundle="signed.zip", gateway=gateway)
        assert api.send().upstream.headers["X-Order"] == ["1"]


SLOW_CHECK = """
    import time
    from tyk.decorators import *

    @CustomKeyCheck
    def slow_check(request, session, metadata, spec):
        session.id_extractor_deadline = int(time.time()) + int(request.get_header("X-Seconds"))
        metadata["token"] = "ignored where an id is extracted"
        return request, session, metadata
    """


def with_extractor(table: Table, extract_with: str, **more: Any) -> Api:
    """Add an API whose auth hook is skipped while the client is known by its header."""
    config = {"header_name": "Authorization", **more}
    extractor = {"extract_from": "header", "extract_with": extract_with, "extractor_config": config}
    return table.api({"middleware.py": SLOW_CHECK}, auth_check="slow_check", id_extractor=extractor)


def test_the_id_extractor_is_the_gateways_own(table: Table) -> None:
    api = with_extractor(table, "value")
    for key, seconds, calls in (("future", "600", 1), ("past", "-600", 4)):
        for _ in range(3):
            assert api.send(headers=[("Authorization", key), ("X-Seconds", seconds)]).status == 200
        assert len(api.dispatches()) == calls


def test_an_id_extractor_without_its_value_is_error_400(table: Table) -> None:
    api = with_extractor(table, "value")
    answer = api.send()
    assert (answer.status, answer.json) == (400, {"error": "Authorization field missing"})
    assert api.dispatches() == []


def test_an_id_extractor_may_take_a_part_of_the_value(table: Table) -> None:
    api = with_extractor(table, "regex", regex_expression="[^-]+$", regex_match_index=0)
    for client in ("one-of-many", "another-many"):
        assert api.send(headers=[("Authorization", client), ("X-Seconds", "600")]).status == 200
    assert len(api.dispatches()) == 1


def test_the_folder_of_a_bundle_is_for_the_gateways_user_alone(table: Table) -> None:
    api = table.api({"middleware.py": adds_header("private", "1")}, pre=["private"])
    folder = table.broker.bundles / md5(api.definition["custom_middleware_bundle"])
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.not_dev(NO_FETCH)
def test_a_sub_folder_needs_its_own_entry_in_the_zip(table: Table) -> None:
    path = write_bundle(table.folder / "no-folder.zip", {"middleware.py": adds_header("nested", "1")}, pre=["nested"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("lib/util.py", "")
    with pytest.raises(ValueError, match="no such file or directory"):
        table.api(None, bundle="no-folder.zip")


def test_bundle_build_writes_entries_for_folders(table: Table, tmp_path: Path) -> None:
    manifest = {"file_list": [], "custom_middleware": {"driver": "grpc", "pre": [{"name": "report_modules"}]}}
    for name, content in {**source_files("packages"), "manifest.json": json.dumps(manifest).encode()}.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    bundle = table.folder / "with-folders.zip"
    built = subprocess.run(
        [TYKPY, "bundle", "build", str(tmp_path / "source"), "-o", str(bundle)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    assert table.api(None, bundle=bundle.name).send().json == ["a file beside middleware.py", 42, "late, 42"]


def test_an_unpacked_bundle_is_not_fetched_again(table: Table) -> None:
    path = table.folder / "once.zip"
    for value in ("old", "new"):
        write_bundle(path, {"middleware.py": adds_header("kept_as_it_is", value)}, pre=["kept_as_it_is"])
        api = table.api(None, bundle="once.zip")
        assert api.send().upstream.headers["X-Order"] == ["old"]


def test_a_bundle_replaces_the_hooks_of_the_definition(table: Table) -> None:
    inline = {"custom_middleware": {"driver": "grpc", "pre": [{"name": "of_the_definition"}]}}
    api = table.api({"middleware.py": adds_header("of_the_bundle", "1")}, pre=["of_the_bundle"], definition=inline)
    assert api.send().upstream.headers["X-Order"] == ["1"]


def test_a_disabled_bundle_still_names_the_hooks_of_an_api(table: Table) -> None:
    """The gateway sends its hash, and neither fetches it nor takes its hooks."""
    hooks = {"custom_middleware": {"driver": "grpc", "pre": [{"name": "of_the_disabled"}]}}
    disabled = {"custom_middleware_bundle_disabled": True, **hooks}
    api = table.api(None, bundle="never-fetched.zip", definition=disabled)
    assert (api.send().status, api.dispatches()) == (500, [("Pre", "of_the_disabled")])
    table.broker.wait_for_log(md5("never-fetched.zip"))
    assert not (table.broker.bundles / md5("never-fetched.zip")).exists()


@pytest.mark.harness(FROM_5_15)
@pytest.mark.parametrize("second", [{"auth_check": "second"}, {"driver": "python", "pre": ["second"]}])
def test_several_bundles_have_one_auth_hook_and_one_driver(table: Table, second: dict[str, Any]) -> None:
    name = next(iter(second))
    files = {"middleware.py": adds_header("second", "2")}
    write_bundle(table.folder / f"first-{name}.zip", files, auth_check="first")
    write_bundle(table.folder / f"second-{name}.zip", files, **second)
    with pytest.raises(ValueError, match=f"bundle .*second-{name}.zip"):
        table.api(None, bundle=f"first-{name}.zip,second-{name}.zip")
