"""A worker with a public key runs what the key's owner signed, and nothing else, also later."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Served, subject, write_bundle
from tests.support.keys import private_pem, public_key
from tykpy.bundles.errors import WorkerError
from tykpy.bundles.files.archive import unpack
from tykpy.commands.bundle.build import build

HOOK = """
@Pre
def hook(request, session, spec):
    import late
    request.add_header("X-Late", late.VALUE)
    return request, session
"""
LATE = 'VALUE = "as signed"\n'
ServeSigned = Callable[[], Served]


@pytest.fixture
def serve_signed(folder: Path, tmp_path: Path) -> Iterator[ServeSigned]:
    """Serve the folder with a public key."""
    served: list[Served] = []

    def start() -> Served:
        served.append(Served(folder, tmp_path / "unpacked", public_key()))
        return served[-1]

    yield start
    for one in served:
        one.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write an unsigned bundle; with its driver only middleware.py is imported at the start."""
    files = {"middleware.py": HOOK, "late.py": LATE}
    return write_bundle(tmp_path / "source", files, driver="python", pre=[{"name": "hook"}])


@pytest.fixture
def signed(folder: Path, tmp_path: Path, source: Path) -> Path:
    """Sign the bundle, and unpack it into the served folder as a gateway does."""
    build(source, tmp_path / "foo.zip", private_pem(tmp_path))
    return unpack(tmp_path / "foo.zip", tmp_path / "gateway").rename(folder / "foo")


def refusal(served: Served) -> str:
    with pytest.raises(WorkerError) as caught:
        served.run(subject("hook"))
    return caught.value.message


def test_a_signed_folder_runs(signed: Path, serve_signed: ServeSigned) -> None:
    assert serve_signed().run(subject("hook")).request.set_headers["X-Late"] == "as signed"


def test_a_signed_zip_runs(folder: Path, tmp_path: Path, source: Path, serve_signed: ServeSigned) -> None:
    build(source, folder / "foo.zip", private_pem(tmp_path))
    served = serve_signed()
    assert served.run(subject("hook", "foo.zip")).request.set_headers["X-Late"] == "as signed"


def test_an_unsigned_bundle_is_refused(folder: Path, source: Path, serve_signed: ServeSigned) -> None:
    build(source, folder / "foo.zip")
    with pytest.raises(WorkerError, match="the bundle is not signed; sign it: tykpy bundle build --key"):
        serve_signed().run(subject("hook", "foo.zip"))


def test_another_owners_bundle_is_refused(
    folder: Path, tmp_path: Path, source: Path, serve_signed: ServeSigned
) -> None:
    build(source, folder / "foo.zip", private_pem(tmp_path, name="theirs"))
    with pytest.raises(WorkerError, match="not one of these files by this key"):
        serve_signed().run(subject("hook", "foo.zip"))


def test_a_single_file_is_refused(folder: Path, serve_signed: ServeSigned) -> None:
    (folder / "foo.py").write_text("from tyk.decorators import *\n" + HOOK)
    assert "a single file has no signature" in refusal(serve_signed())


def test_an_altered_file_is_refused_by_its_checksum(signed: Path, serve_signed: ServeSigned) -> None:
    (signed / "late.py").write_text('VALUE = "altered"\n')
    assert "the checksum is" in refusal(serve_signed())


def test_signature_covers_altered_files_with_new_checksum(
    signed: Path, tmp_path: Path, serve_signed: ServeSigned
) -> None:
    signature = (signed / "manifest.json").read_text().split('"signature": "')[1].split('"')[0]
    (signed / "late.py").write_text('VALUE = "altered"\n')
    build(signed, tmp_path / "again.zip")
    again = unpack(tmp_path / "again.zip", tmp_path / "again") / "manifest.json"
    (signed / "manifest.json").write_text(again.read_text().rstrip("}\n") + f', "signature": "{signature}"}}')
    assert "not one of these files by this key" in refusal(serve_signed())


def test_unsigned_file_is_refused(signed: Path, serve_signed: ServeSigned) -> None:
    (signed / "json.py").write_text("")
    assert "not in file_list, so nobody signed it: json.py" in refusal(serve_signed())


def test_a_file_that_was_cut_in_two_is_refused(signed: Path, serve_signed: ServeSigned) -> None:
    manifest = json.loads((signed / "manifest.json").read_text())
    code = (signed / "late.py").read_bytes()
    (signed / "late.py").write_bytes(code[:5])
    (signed / "rest.py").write_bytes(code[5:])
    at = manifest["file_list"].index("late.py")
    manifest["file_list"].insert(at + 1, "rest.py")
    (signed / "manifest.json").write_text(json.dumps(manifest))
    assert "the names or sizes of the files in file_list are not those that were signed" in refusal(serve_signed())


def test_a_folder_that_is_a_link_is_refused(signed: Path, tmp_path: Path, serve_signed: ServeSigned) -> None:
    (tmp_path / "elsewhere").mkdir()
    (signed / "lib").symlink_to(tmp_path / "elsewhere")
    assert "nobody signed it: lib" in refusal(serve_signed())


def test_bytecode_of_other_interpreters_is_ignored(signed: Path, serve_signed: ServeSigned) -> None:
    (signed / "__pycache__").mkdir()
    (signed / "__pycache__" / "late.cpython-311.pyc").write_bytes(b"anything")
    assert serve_signed().run(subject("hook")).request.set_headers["X-Late"] == "as signed"


def test_file_altered_after_verification_is_not_imported(signed: Path, serve_signed: ServeSigned) -> None:
    served = serve_signed()
    (signed / "late.py").write_text('VALUE = "altered"\n')
    assert "late.py was changed since its signature was checked" in refusal(served)


def test_file_added_after_verification_is_not_imported(signed: Path, serve_signed: ServeSigned) -> None:
    served = serve_signed()
    (signed / "late").mkdir()
    (signed / "late" / "__init__.py").write_text('VALUE = "slipped in"\n')
    assert "late/__init__.py is not in file_list" in refusal(served)


def test_unverified_extension_module_is_not_loaded(signed: Path, serve_signed: ServeSigned) -> None:
    served = serve_signed()
    (signed / "late.abi3.so").write_bytes(b"no library")
    assert "late.abi3.so is not in file_list" in refusal(served)
