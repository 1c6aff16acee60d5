"""How bundles are found, how broken ones are described, and what becomes of later ones."""

import hashlib
import json
import shutil
import textwrap
from pathlib import Path

import msgpack
import pytest

from tests.support.bundles import IMPORTS, Served, manifest, md5, subject, write_bundle, write_files, write_zip
from tests.unit.conftest import Serve
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.files import discovery
from tykpy.ipc.frame import Status

HOOK = "@Hook\ndef H(request, session, spec):\n    request.add_header('from', {!r})\n    return request, session\n"


def bundle_hook(where: str) -> dict[str, str]:
    return {"middleware.py": HOOK.format(where)}


def said_by(served: Served, bundle_hash: str, hook: str = "H") -> str:
    answer = served.run(subject(hook, spec={"bundle_hash": bundle_hash}))
    return answer.request.set_headers["from"]


def failure(served: Served, bundle: str = "foo", hook: str = "H") -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        served.run(subject(hook, bundle))
    return caught.value


@pytest.mark.parametrize("name", ["foo", "foo.zip"])
def test_a_folder_is_found_by_its_name_with_and_without_zip(folder: Path, serve: Serve, name: str) -> None:
    write_bundle(folder / "foo", bundle_hook("folder"))
    assert said_by(serve(), md5(name)) == "folder"


def test_a_zip_is_found_by_its_file_name(folder: Path, serve: Serve) -> None:
    write_zip(folder / "foo.zip", bundle_hook("zip"))
    assert said_by(serve(), md5("foo.zip")) == "zip"


@pytest.mark.parametrize("name", ["foo", "foo.py", "foo.zip"])
def test_a_single_file_is_found_by_its_name(folder: Path, serve: Serve, name: str) -> None:
    write_files(folder, {"foo.py": IMPORTS + HOOK.format("file")})
    assert said_by(serve(), md5(name)) == "file"


def test_single_file_cannot_import_its_neighbours(folder: Path, serve: Serve) -> None:
    write_files(folder, {"foo.py": "import other\n", "other.py": "", "middleware.py": ""})
    assert "No module named 'other'" in failure(serve()).message


def test_a_gateways_own_folder_is_found_by_its_hash(folder: Path, serve: Serve) -> None:
    write_bundle(folder / md5("shared.zip"), bundle_hook("gateway"))
    assert said_by(serve(), md5("shared.zip")) == "gateway"


def test_exact_name_goes_before_other_names(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", bundle_hook("folder"))
    write_zip(folder / "foo.zip", bundle_hook("zip"))
    write_files(folder, {"foo.py": IMPORTS + HOOK.format("file")})
    served = serve()
    assert [said_by(served, md5(name)) for name in ("foo", "foo.zip", "foo.py")] == ["folder", "zip", "file"]


def test_the_folder_may_be_a_bundle_itself(folder: Path, serve: Serve) -> None:
    write_bundle(folder, bundle_hook("itself"))
    assert said_by(serve(), md5("bundles")) == "itself"


def test_several_bundles_of_one_api_come_in_the_apis_order(folder: Path, serve: Serve) -> None:
    names = ("zebra.zip", "apple.zip", "mango.zip")
    shared = folder / md5(",".join(names))
    for name in names:
        part = name.removesuffix(".zip")
        hook = f"import util\n@Pre\ndef {part}(request, session, spec):\n"
        body = "    request.object.raw_body += util.WHO\n    return request, session\n"
        write_bundle(shared / part, {"middleware.py": hook + body, "util.py": f"WHO = b'{part} '"})
    answer = serve().run(subject("*", ",".join(names)))
    assert answer.request.raw_body == b"zebra apple mango "


@pytest.mark.parametrize("names", ["team/zebra.zip,apple.zip", "zebra.zip, apple.zip", "my__zebra,of/apple"])
def test_folders_and_spaces_in_names_keep_the_order(folder: Path, serve: Serve, names: str) -> None:
    """The gateway cuts the suffix and spaces off, and writes `__` for `/`."""
    shared = folder / md5(names)
    for number, name in enumerate(names.split(",")):
        part = name.strip().removesuffix(".zip").replace("/", "__")
        body = f"    request.object.raw_body += b'{number}'\n    return request, session\n"
        write_bundle(shared / part, {"middleware.py": f"@Pre\ndef hook_{number}(request, session, spec):\n{body}"})
    served = serve()
    assert served.run(subject("*", names)).request.raw_body == b"01"
    assert [bundle["state"] for bundle in served.store.describe()] == ["loaded"]


def test_no_chain_runs_until_all_parts_are_there(folder: Path, serve: Serve) -> None:
    shared = folder / md5("one.zip,two.zip")
    write_bundle(shared / "one", {"middleware.py": HOOK.format("one").replace("@Hook", "@Pre")})
    (shared / "two").mkdir()
    served = serve()
    assert said_by(served, shared.name) == "one"
    with pytest.raises(WorkerError, match=r"the Pre chain of bundle .* cannot run: .*two: no manifest.json"):
        served.run(subject("*", "one.zip,two.zip"))
    write_bundle(shared / "two", {"middleware.py": HOOK.format("two").replace("@Hook\ndef H", "@Pre\ndef G")})
    served.reload()
    assert said_by(served, shared.name, "*") == "two"
    assert said_by(served, shared.name, "G") == "two"


def test_bundle_with_missing_parts_is_incomplete(folder: Path, serve: Serve) -> None:
    shared = folder / md5("one.zip,two.zip")
    write_bundle(shared / "one", bundle_hook("one"))
    served = serve()
    assert said_by(served, shared.name) == "one"
    assert [bundle["state"] for bundle in served.store.describe()] == ["incomplete"]
    write_bundle(shared / "two", {"middleware.py": HOOK.format("two").replace("def H", "def G")})
    served.reload()
    assert said_by(served, shared.name, "G") == "two"
    assert [bundle["state"] for bundle in served.store.describe()] == ["loaded"]


def test_a_hook_without_a_bundle_is_found_by_its_name(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", bundle_hook("foo"))
    served = serve()
    assert said_by(served, discovery.EMPTY_NAME_HASH) == "foo"
    assert said_by(served, "") == "foo"


def test_a_name_in_several_bundles_is_an_error_that_names_them(folder: Path, serve: Serve) -> None:
    for name in ("foo", "bar"):
        write_bundle(folder / name, bundle_hook(name))
    error = failure(serve(), "")
    assert error.status is Status.NOT_FOUND
    assert "hook H is in several bundles, and the call names none: bar, foo" in error.message


def test_later_bundles_are_not_imported(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", bundle_hook("foo"))
    served = serve()
    write_bundle(folder / "bar", bundle_hook("bar"))
    assert failure(served, md5("bar")).status is Status.NOT_FOUND
    assert said_by(served, "") == "foo"
    served.reload()
    assert said_by(served, md5("bar")) == "bar"
    assert "several bundles" in failure(served, "").message


def test_a_loaded_bundle_is_not_reloaded(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", bundle_hook("old"))
    served = serve()
    write_bundle(folder / "foo", bundle_hook("new"))
    failure(served, "unknown")
    assert said_by(served, md5("foo")) == "old"
    shutil.rmtree(folder / "foo")
    failure(served, "unknown")
    assert said_by(served, md5("foo")) == "old"
    served.close()
    write_bundle(folder / "foo", bundle_hook("new"))
    assert said_by(serve(), md5("foo")) == "new"


def test_a_half_written_folder_is_an_error(folder: Path, serve: Serve) -> None:
    (folder / "foo").mkdir()
    served = serve()
    assert "no manifest.json in it (yet)" in failure(served).message
    write_files(folder / "foo", {"manifest.json": manifest(["middleware.py"])})
    served.reload()
    assert "middleware.py is in file_list and cannot be read" in failure(served).message


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("x = 1\nx = = 2\n", "SyntaxError: invalid syntax", 2),
        ("x = 1\n\nraise ValueError('no')\n", "ValueError: no", 3),
        ("import sys\nsys.exit(3)\n", "called sys.exit(3)", 2),
        ("def f():\n    return 1 / 0\nf()\n", "ZeroDivisionError: division by zero", 2),
        ("import nope_nope\n", "ModuleNotFoundError: No module named 'nope_nope'", 1),
        ("from tyk.decorators import *\n@CustomKeyCheck(on_error='continue')\ndef A(r, s, p): ...\n", "refused", 2),
    ],
)
def test_broken_bundle_names_the_place_and_others_run(
    folder: Path, serve: Serve, source: str, message: str, line: int
) -> None:
    write_files(folder / "foo", {"manifest.json": manifest(["middleware.py"]), "middleware.py": source})
    write_bundle(folder / "bar", bundle_hook("bar"))
    served = serve()
    error = failure(served)
    assert error.status is Status.HOOK_FAILED
    assert message in error.message
    assert f"{folder}/foo/middleware.py:{line}:" in error.message
    assert said_by(served, md5("bar")) == "bar"


def test_wrong_hooks_are_named_and_the_others_run(folder: Path, serve: Serve) -> None:
    source = """
        @Hook
        def H(request, session, spec):
            request.add_header("from", "good")
            return request, session

        def Plain(request, session, spec): ...

        @Pre
        def Two(request, session): ...

        @Event
        def Three(request, session, spec): ...

        @Post
        def Star(*arguments): ...

        @Post
        def Keyword(request, session, spec, *, extra): ...
        """
    listed = {"pre": [{"name": name} for name in ("H", "Plain", "Nowhere")]}
    write_bundle(folder / "foo", {"middleware.py": textwrap.dedent(source)}, **listed)
    served = serve()
    assert said_by(served, md5("foo")) == "good"
    expected = {
        "Plain": "is in the manifest, but is not a hook: from tyk.decorators import Pre, and write @Pre",
        "Nowhere": "no file defines it; hooks of foo: H",
        "Two": "hook Two takes 2 arguments; allowed are (request, session, spec), (request, session, metadata, spec)",
        "Three": "hook Three takes 3 arguments; allowed are (event, spec)",
        "Star": "hook Star takes *args",
        "Keyword": "must be given by name (extra)",
    }
    for name, message in expected.items():
        assert message in failure(served, hook=name).message
    assert "middleware.py:10:" in failure(served, hook="Two").message
    assert failure(served, hook="Nowhere").status is Status.NOT_FOUND
    assert failure(served, hook="Two").status is Status.HOOK_FAILED


def test_a_checksum_is_verified(folder: Path, serve: Serve) -> None:
    root = write_bundle(folder / "foo", bundle_hook("checked"))
    found = json.loads((root / "manifest.json").read_text())
    found["checksum"] = hashlib.md5((root / "middleware.py").read_bytes()).hexdigest()
    (root / "manifest.json").write_text(json.dumps(found))
    served = serve()
    assert said_by(served, md5("foo")) == "checked"
    served.close()
    with (root / "middleware.py").open("a") as file:
        file.write("# changed")
    assert "the checksum is" in failure(serve()).message


def test_a_driver_grpc_bundle_loads_all_its_files(folder: Path, serve: Serve) -> None:
    write_bundle(folder / "foo", {"first.py": "", "second.py": IMPORTS + HOOK.format("second")})
    assert said_by(serve(), md5("foo")) == "second"


def test_embedded_bundles_load_more_files_for_missing_hooks(folder: Path, serve: Serve) -> None:
    files = {**bundle_hook("main"), "broken.py": "raise ValueError('loaded')"}
    write_bundle(folder / "foo", files, driver="python", pre=[{"name": "H"}])
    write_bundle(folder / "bar", files, driver="python", pre=[{"name": "Other"}])
    served = serve()
    assert said_by(served, md5("foo")) == "main"
    assert "ValueError: loaded" in failure(served, "bar").message


def test_description_is_complete_and_packable(folder: Path, serve: Serve) -> None:
    source = (
        "@Pre(timeout=1.5, idempotent=True)\nasync def A(request, session, metadata, spec): ...\n@Pre\ndef B(x): ...\n"
    )
    write_bundle(folder / "foo", {"middleware.py": source}, pre=[{"name": "A", "disabled": True, "timeout": 2}])
    write_files(folder, {"bad.py": "x = = 1"})
    described = msgpack.unpackb(msgpack.packb(serve().store.describe()))
    bad, good = described
    assert (bad["name"], bad["state"], bad["error"]["line"]) == ("bad.py", "broken", 1)
    assert good["state"] == "loaded"
    assert md5("foo") in good["hashes"]
    assert good["hooks"] == [
        {
            "name": "A",
            "hook_type": "Pre",
            "shape": "request, session, metadata, spec",
            "is_async": True,
            "timeout": 2.0,
            "on_error": "fail",
            "idempotent": True,
            "file": str(folder / "foo" / "middleware.py"),
            "line": 2,
            "listed": ["Pre"],
            "disabled": True,
        }
    ]
    assert good["faulty"][0]["name"] == "B"
