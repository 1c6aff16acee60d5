"""The changes to protoc's output, and that the generated files in the repository have them."""

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest

from tests.support.root import ROOT

SCRIPT = ROOT / "scripts" / "generate_protos.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("generate_protos", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_become_absolute(script: ModuleType) -> None:
    text = "import coprocess_common_pb2 as c\nimport coprocess_common_pb2_other\nimport sys as s\n"
    adapted = script.adapt(text, is_stub=False)
    assert adapted == text.replace("import coprocess_common_pb2 as", "from tyk.proto import coprocess_common_pb2 as")


def test_maps_of_stubs_get_their_types(script: ModuleType) -> None:
    text = "from typing import ClassVar as _ClassVar\nx: _Union[A, _Mapping]\ny: _Mapping[str, int]\n"
    assert script.adapt(text, is_stub=True) == (
        "from typing import Any as _Any, ClassVar as _ClassVar\n"
        "x: _Union[A, _Mapping[str, _Any]]\n"
        "y: _Mapping[str, int]\n"
    )


def test_the_generated_files_are_adapted(script: ModuleType) -> None:
    generated = list(script._generated())
    assert len(generated) == 2 * len(list(script.PROTO_FOLDER.glob("*.proto"))) > 0
    for path in generated:
        text = path.read_text()
        assert script.adapt(text, is_stub=path.suffix == ".pyi") == text, path
