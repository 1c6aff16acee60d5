"""Python files beside bundles that are none: not listed, not an error, and not imported if the source tells."""

from pathlib import Path

import pytest

from tests.support.bundles import IMPORTS, Served, md5, subject, write_files
from tests.unit.conftest import Serve
from tykpy.bundles.errors import WorkerError

HOOK = "@Pre\ndef H(request, session, spec):\n    return request, session\n"
LEAVES_A_MARK = "open({!r}, 'w').close()\n"
OTHERS = {
    "conftest.py": "import sys, pytest_nope\nsys.path.insert(0, '.')\n",
    "test_mine.py": "import mine\nfrom tyk.session import TykSession\nassert mine.H\n",
    "mine_test.py": "raise AssertionError\n",
    "shared.py": '"""Says tyk."""\nimport nope\n\nLIMIT = nope.LIMIT\n\ndef double(x):\n    return 2 * x\n',
    "models.py": "import nope\nclass A(nope.B): ...\nif __name__ == '__main__':\n    A()\n",
    "empty.py": "",
    "marker.py": "from tyk.decorators import Pre\nmark = Pre\n",
}


def names(served: Served) -> list[str]:
    return [bundle["name"] for bundle in served.store.describe()]


@pytest.mark.parametrize(("name", "source"), OTHERS.items(), ids=OTHERS)
def test_a_file_without_hooks_is_no_bundle(folder: Path, serve: Serve, name: str, source: str) -> None:
    write_files(folder, {"mine.py": IMPORTS + HOOK, name: source})
    served = serve()
    assert names(served) == ["mine.py"]
    with pytest.raises(WorkerError, match=r"there are: mine\.py$"):
        served.run(subject("H", "unknown"))


@pytest.mark.parametrize("name", ["conftest.py", "test_a.py"])
def test_a_test_is_not_imported(folder: Path, tmp_path: Path, serve: Serve, name: str) -> None:
    write_files(folder, {name: LEAVES_A_MARK.format(str(tmp_path / "mark"))})
    serve()
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "source",
    [
        "import tyk.decorators\n@tyk.decorators.Pre\n",
        "from tyk import decorators as d\n@d.Pre\n",
        "import os, tyk\nimport tyk . decorators\n@tyk.decorators.Pre\n",
        "if True:\n    from tyk.decorators import *\n@Pre\n",
    ],
)
def test_every_import_of_decorators_makes_a_bundle(folder: Path, serve: Serve, source: str) -> None:
    write_files(folder, {"test_mine.py": source + "def H(request, session, spec):\n    return request, session\n"})
    assert names(serve()) == ["test_mine.py"]


@pytest.mark.parametrize("source", ["def H(:\n", "from tyk.decorators import Pre\ndef H(:\n", "\0", "import nope\n"])
def test_file_that_cannot_be_imported_is_a_broken_bundle(folder: Path, serve: Serve, source: str) -> None:
    write_files(folder, {"mine.py": source})
    (bundle,) = serve().store.describe()
    assert bundle["state"] == "broken"


def test_a_file_that_gets_hooks_later_is_found(folder: Path, serve: Serve) -> None:
    write_files(folder, {"mine.py": "def H(): ...\n"})
    served = serve()
    assert names(served) == []
    write_files(folder, {"mine.py": IMPORTS + HOOK})
    served.reload()
    served.run(subject("H", spec={"bundle_hash": md5("mine.py")}))
    assert names(served) == ["mine.py"]
