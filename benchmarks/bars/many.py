"""Writes many bundles, and bundles with many hooks, and builds the objects that call each of them."""

from pathlib import Path
from typing import Final

from benchmarks.objects import HEADER, HEADER_VALUE, typical_post
from tyk.proto.coprocess_object_pb2 import Object
from tykpy.commands.objects import bundle_hash

_HEAD: Final = "from tyk.decorators import Post\n"
_HOOK: Final = """

@Post
def {name}(request, session, spec):
    request.add_header("{header}", "{value}")
    return request, session
"""


def bundles(folder: Path, count: int) -> tuple[list[Path], list[Object]]:
    """Write so many bundles with a hook each; every object calls another one."""
    folder.mkdir()
    files, items = [], []
    for number in range(count):
        file = folder / f"many_{number:05}.py"
        file.write_text(_HEAD + _hook("mark"))
        files.append(file)
        items.append(_call(file.name, "mark"))
    return files, items


def hooks(folder: Path, count: int) -> tuple[Path, list[Object]]:
    """Write a bundle with so many hooks; every object calls another one."""
    folder.mkdir()
    file = folder / "many_hooks.py"
    names = [f"mark_{number:05}" for number in range(count)]
    file.write_text(_HEAD + "".join(map(_hook, names)))
    return file, [_call(file.name, name) for name in names]


def _hook(name: str) -> str:
    return _HOOK.format(name=name, header=HEADER, value=HEADER_VALUE)


def _call(bundle: str, hook: str) -> Object:
    item = typical_post()
    item.hook_name = hook
    item.spec["bundle_hash"] = bundle_hash(bundle)
    return item
