"""The texts of a new bundle's files, besides its hooks; `@...@` is filled in."""

from typing import Final

CODE: Final = '''"""The hooks of @BUNDLE@. manifest.json says where each one runs."""

@IMPORTS@
@CONSTANTS@

@HOOKS@
'''

TEST: Final = '''"""Each hook, called as a worker calls it."""

@IMPORTS@


@TESTS@
'''

OPERATIONS: Final = '''"""The operations of @TITLE@, from its OpenAPI document."""

import re

LISTEN_PATH = @LISTEN_PATH@
"""The path below which the gateway serves the API."""

OPERATIONS = {
@ENTRIES@
}
"""Method and path by operation."""


def operation_of(method: str, url: str) -> str | None:
    """Return the operation that a request is for; None if the document has none."""
    path = url.partition("?")[0]
    return next((name for name, own, pattern in _PATTERNS if own == method and pattern.fullmatch(path)), None)


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"({[^{}/]+})", LISTEN_PATH.rstrip("/") + path)
    return re.compile("".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts))


_PATTERNS = [(name, method, _pattern(path)) for name, (method, path) in OPERATIONS.items()]
'''

PROJECT: Final = """[project]
name = "@BUNDLE@"
version = "0.1.0"
requires-python = ">=3.11"
# What the hooks import, besides tyk and gateway. The workers of the broker need it too.
dependencies = []

[dependency-groups]
dev = ["tykpy[dev]", "mypy", "pytest", "ruff"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]

[tool.mypy]
strict = true
files = ["."]

[tool.ruff]
line-length = 120
target-version = "py311"

[tool.ruff.lint]
select = ["E", "W", "F", "I", "UP", "B", "ANN", "SIM", "RET"]
ignore = ["ANN401"]
"""

LAUNCH: Final = """{
  "version": "0.2.0",
  "configurations": [
    {
      "name": "Hooks: attach to tykpy dev --debugpy 5678",
      "type": "debugpy",
      "request": "attach",
      "connect": {"host": "127.0.0.1", "port": 5678},
      "justMyCode": true
    },
    {
      "name": "Tests",
      "type": "debugpy",
      "request": "launch",
      "module": "pytest",
      "justMyCode": true
    }
  ]
}
"""

IGNORED: Final = "__pycache__/\n.*_cache/\n.venv/\n*.tykpy\n*.zip\n"

README: Final = """# @BUNDLE@

A plugin bundle for the Tyk Gateway, run by tykpy.

| file | what is in it |
| --- | --- |
@FILES@

## Work on it

```console
$ python3 -m venv .venv && . .venv/bin/activate
$ pip install 'tykpy[dev]' mypy pytest ruff
$ tykpy dev                 # a gateway on http://localhost:8080 that shows what each hook does
$ @CURL@
$ pytest                    # the tests
$ mypy && ruff check        # types and style
$ tykpy lint .              # what the gateway would ignore
```

To step through a hook in VS Code, `pip install debugpy`, run `tykpy dev --debugpy 5678`, and start "Hooks: attach".

## Add a hook

Write a function with a decorator of `tyk.decorators` into `middleware.py`, and list it in `manifest.json` under `pre`,
`auth_check`, `post_key_auth`, `post` or `response`. List a new file in `file_list`.

## Ship it

```console
$ tykpy bundle build . -o @BUNDLE@.zip
$ tykpy broker --bundles .
```

The first command packs the bundle for the gateway, which downloads it; the second serves this folder to the gateway.
"""
