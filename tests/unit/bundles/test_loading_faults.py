"""A fault while a bundle loads affects that bundle alone, and can be reported to the broker."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.bundles import IMPORTS, manifest, write_files
from tykpy.bundles.registry import BundleStore
from tykpy.ipc.text import bounded

HOOK = IMPORTS + "@Pre\ndef H(request, session, spec):\n    return request, session\n"
RAISES = {
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "CancelledError": "import asyncio\nraise asyncio.CancelledError",
    "of its own": "class Panic(BaseException): pass\nraise Panic('own')",
    "group": "raise BaseExceptionGroup('several', [KeyboardInterrupt(), ValueError()])",
    "in a decorator": "def deco(f): raise GeneratorExit\n@deco\ndef f(): pass",
    "in a metaclass": "class M(type):\n    def __new__(*a): raise GeneratorExit\nclass A(metaclass=M): pass",
    "in another bundle's name": "raise KeyboardInterrupt('\\n'.join(['x'] * 100))",
    "in __str__": "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise E",
    "no str from __str__": "class E(Exception):\n    def __str__(self): return 5\nraise E",
    "in the repr of an exit code": "class C:\n    def __repr__(self): raise GeneratorExit\nraise SystemExit(C())",
    "in __class__": (
        "class E(Exception):\n    @property\n    def __class__(self): raise GeneratorExit\n"
        "    def __str__(self): return ''\nraise E"
    ),
    "in __traceback__": (
        "class E(Exception):\n    @property\n    def __traceback__(self): raise GeneratorExit\nraise E('x')"
    ),
    "in the name of its class": (
        "class M(type):\n    @property\n    def __name__(cls): raise GeneratorExit\n"
        "class E(Exception, metaclass=M): pass\nraise E('x')"
    ),
    "odd class": "raise type('\\udcff\\n' + 'x' * 10**6, (BaseException,), {})('x')",
    "surrogate": "raise ValueError('a\\udc80b\\ud800')",
    "10 MB": "raise ValueError('x' * 10_000_000)",
    "10 MB of surrogates": "raise ValueError('\\udc80' * 10_000_000)",
    "syntax error made up": "raise SyntaxError('\\udc80', (5, 'a', object(), None))",
    "syntax error far away": "raise SyntaxError('x', ('\\udc80' * 10_000, 10**30, 1, 'x'))",
    "recursion": "def f(): f()\nf()",
    "memory": "raise MemoryError",
}
"""Code that raises when it is imported."""
MADE_UP = "from tyk.decorators import HookDefinition\ndef F(r, s, p): ...\nF.__tyk_hook__ = "
FAULTY_HOOKS = {
    "huge timeout": ("@Pre(timeout=1e15)\ndef F(request, session, spec): ...", "timeout of 1000000000000000.0 seconds"),
    "surrogate in its name": (
        "def F(r, s, p): ...\nF.__name__ = 'F\\udc80'\nPre(F)",
        "a name that no gateway can send",
    ),
    "very long name": ("def F(r, s, p): ...\nF.__name__ = 'F' * 10**6\nPre(F)", "a name that no gateway can send"),
    "signature of another type": ("@Pre\ndef F(r, s, p): ...\nF.__signature__ = 5", "no signature to look at"),
    "signature raises": (
        "class W:\n    __name__ = 'F'\n    def __call__(self, r, s, p): ...\n"
        "    @property\n    def __signature__(self): raise GeneratorExit\nF = Pre(W())",
        "GeneratorExit",
    ),
    "wrapped raises": (
        "class W:\n    __name__ = 'F'\n    def __call__(self, r, s, p): ...\n"
        "    @property\n    def __wrapped__(self): raise GeneratorExit\nF = Pre(W())",
        "GeneratorExit",
    ),
    "nan": (MADE_UP + "HookDefinition('F', 'Pre', float('nan'))", "timeout of nan seconds"),
    "timeout of another type": (MADE_UP + "HookDefinition('F', 'Pre', '1')", "timeout of '1' seconds"),
    "wraps itself": ("def F(r, s, p): ...\nF.__wrapped__ = F\nPre(F)", "wrapper loop"),
    "hook type made up": (MADE_UP + "HookDefinition('F', '\\udc80')", "options that no decorator"),
    "hook type of another type": (MADE_UP + "HookDefinition('F', [])", "options that no decorator"),
    "on_error of another type": (MADE_UP + "HookDefinition('F', 'Pre', None, object())", "options that no decorator"),
    "idempotent of another type": (
        MADE_UP + "HookDefinition('F', 'Pre', None, 'fail', 5)",
        "options that no decorator",
    ),
}
"""Source of a hook that cannot be used, and part of its error."""
HARMLESS = {
    "metaclass": (
        "class M(type):\n    def __getattribute__(c, name): raise SystemExit\nclass C(metaclass=M): ...\nodd = C()"
    ),
    "lazy object": "class L:\n    @property\n    def __class__(self): raise KeyboardInterrupt\nlazy = L()",
    "equal to nothing": "class E:\n    def __eq__(self, other): raise KeyboardInterrupt\nodd = E()",
    "globals with other keys": "globals()[5] = H\nglobals()[None] = 1",
    "getattr of the module": "def __getattr__(name): raise KeyboardInterrupt(name)",
    "del": "class D:\n    def __del__(self): raise KeyboardInterrupt\nD()",
    "name of a str class": (
        "class S(str):\n    def __hash__(self): raise GeneratorExit\n    def __eq__(s, o): raise GeneratorExit\n"
        "def G(r, s, p): ...\nG.__name__ = S('G')\nPre(G)"
    ),
}
"""Odd code that may stand beside a sound hook."""


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Iterator[BundleStore]:
    made = BundleStore([folder], tmp_path / "unpacked")
    yield made
    for bundle in made.loaded():
        bundle.close()


def described(store: BundleStore) -> dict[str, dict[str, Any]]:
    """Load everything; return the descriptions sent to the broker, by bundle."""
    store.load_all()
    told = msgpack.unpackb(msgpack.packb(store.describe()))
    return {bundle["name"]: bundle for bundle in told}


@pytest.mark.parametrize("source", RAISES.values(), ids=RAISES)
def test_an_import_that_raises_breaks_one_bundle(folder: Path, store: BundleStore, source: str) -> None:
    write_files(folder, {"bad.py": IMPORTS + source, "good.py": HOOK})
    found = described(store)
    assert [hook["name"] for hook in found["good.py"]["hooks"]] == ["H"]
    error = found["bad.py"]["error"]
    assert error["message"]
    assert error["file"]
    assert len(msgpack.packb(error)) < 10_000


@pytest.mark.parametrize(("source", "said"), FAULTY_HOOKS.values(), ids=FAULTY_HOOKS)
def test_a_hook_that_cannot_be_used_is_faulty_alone(folder: Path, store: BundleStore, source: str, said: str) -> None:
    write_files(folder, {"bad.py": HOOK + source})
    bundle = described(store)["bad.py"]
    assert [hook["name"] for hook in bundle["hooks"]] == ["H"]
    (faulty,) = bundle["faulty"]
    assert said in faulty["message"]
    assert faulty["name"].startswith("F")


@pytest.mark.parametrize("source", HARMLESS.values(), ids=HARMLESS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_odd_values_in_a_file_hurt_nothing(folder: Path, store: BundleStore, source: str) -> None:
    write_files(folder, {"odd.py": HOOK + source})
    bundle = described(store)["odd.py"]
    assert (bundle["error"], bundle["faulty"]) == (None, [])
    assert "H" in [hook["name"] for hook in bundle["hooks"]]


REPLACEMENTS = {
    "number": "5",
    "nothing": "None",
    "tuple": "__import__('collections').namedtuple('Settings', 'name')('n')",
    "slots": "type('Slots', (), {'__slots__': ()})()",
    "no attributes": "type('Odd', (), {'__getattribute__': lambda *_: 1 / 0, '__eq__': lambda *_: 1 / 0})()",
    "class": "__import__('enum').Enum('Settings', ['name'])",
}
"""Values that a module puts in its place."""


@pytest.mark.parametrize("value", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_a_module_may_put_any_value_in_its_place(folder: Path, store: BundleStore, value: str) -> None:
    replaces = f"import sys\nsys.modules[__name__] = {value}\n"
    files = {"hooks.py": f"from pkg import settings\n{HOOK}", "settings.py": replaces}
    files |= {"pkg/__init__.py": "", "pkg/settings.py": replaces}
    write_files(folder / "odd", {**files, "manifest.json": manifest(["hooks.py", "settings.py"], driver="grpc")})
    bundle = described(store)["odd"]
    assert (bundle["error"], [hook["name"] for hook in bundle["hooks"]]) == (None, ["H"])


@pytest.mark.parametrize("timeout", ["9e9", "1e300", "1" + "0" * 400, "1e999", "NaN", "-1", '"\\udc80"'])
def test_an_impossible_timeout_in_a_manifest_breaks_one_bundle(folder: Path, store: BundleStore, timeout: str) -> None:
    text = manifest(["hooks.py"], pre=[{"name": "H", "timeout": "?"}]).replace('"?"', timeout)
    write_files(folder, {"bad/manifest.json": text, "bad/hooks.py": HOOK, "good.py": HOOK})
    found = described(store)
    assert found["good.py"]["state"] == "loaded"
    problems = [found["bad"]["error"], *found["bad"]["faulty"]]
    message = next(filter(None, problems))["message"]
    assert "timeout" in message or "not valid Unicode" in message


@pytest.mark.parametrize("name", [b"f\xff", b"f\xff.py", b"\xed\xa0\x80", "é".encode() * 120])
def test_a_folder_of_any_name_is_a_bundle(folder: Path, store: BundleStore, name: bytes) -> None:
    path = folder / os.fsdecode(name)
    if path.suffix == ".py":
        path.write_text(HOOK)
    else:
        write_files(path, {"hooks.py": HOOK, "manifest.json": manifest(["hooks.py"])})
    (bundle,) = described(store).values()
    assert bundle["state"] == "loaded"
    assert bundle["hooks"][0]["file"].isprintable()


@pytest.mark.parametrize("name", ["a\udc80.py", "a\0.py", "x" * 5000 + ".py"])
def test_any_file_name_in_a_manifest_is_refused_or_read(folder: Path, store: BundleStore, name: str) -> None:
    write_files(folder / "bad", {"manifest.json": manifest([name])})
    write_files(folder, {"good.py": HOOK})
    found = described(store)
    assert found["bad"]["error"]["message"]
    assert found["good.py"]["state"] == "loaded"


def test_any_hook_name_in_a_manifest_is_described(folder: Path, store: BundleStore) -> None:
    names = ["\udc80", "x" * 100_000]
    text = manifest(["hooks.py"], pre=[{"name": name} for name in names])
    write_files(folder / "bad", {"manifest.json": text, "hooks.py": HOOK})
    assert len(described(store)["bad"]["faulty"]) == len(names)


def test_deeply_nested_json_is_refused(folder: Path, store: BundleStore) -> None:
    write_files(folder / "bad", {"manifest.json": "[" * 200_000})
    write_files(folder, {"good.py": HOOK})
    found = described(store)
    assert "not JSON that can be read" in found["bad"]["error"]["message"]
    assert found["good.py"]["state"] == "loaded"


@pytest.mark.parametrize("timeout", ["10**400", "float('inf')", "float('nan')", "-1", "True", "'1'"])
def test_invalid_timeout_names_the_line(folder: Path, store: BundleStore, timeout: str) -> None:
    write_files(folder, {"bad.py": IMPORTS + f"\n@Pre(timeout={timeout})\ndef F(r, s, p): ...\n"})
    error = described(store)["bad.py"]["error"]
    assert "timeout is a number of seconds above 0" in error["message"]
    assert error["line"] == 3


def test_bounded_text_is_always_valid_and_short() -> None:
    class Loud(str):
        def __getitem__(self, key: object) -> str:
            raise KeyboardInterrupt

    assert bounded("plain", 5) == "plain"
    assert bounded("é\udc80", 20) == "é\\udc80"
    assert bounded("too long", 6) == "too..."
    assert len(bounded("\udc80" * 100, 50)) == 50
    assert type(bounded(Loud("loud"), 10)) is str
