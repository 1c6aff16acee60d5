"""Tells from its source that a `.py` file beside bundles is none: a test, a `conftest.py`, functions of something else.

Such a file is not imported. What cannot be told from the source is: it is a bundle if it turns out to have hooks, or
cannot be imported.
"""

import ast
import re
from pathlib import Path
from typing import Final

_HAS_DECORATORS: Final = re.compile(
    rb"\btyk\s*\.\s*decorators\b"
    rb"|^[ \t]*from[ \t]+tyk[ \t]+import\b"
    rb"|^[ \t]*import\b.*\btyk\b(?!\s*\.)"
    rb"|^[ \t]*from\b.*\bimport[ \t]*\*",
    re.MULTILINE,
)
"""The ways to get at decorators, a star import from any module among them."""
_IS_TEST: Final = re.compile(r"conftest|test_.*|.*_test")
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_INERT: Final = (*_DEFINITIONS, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)


def is_other_file(file: Path, source: bytes) -> bool:
    """Say whether the file is no bundle for certain. Raises what `compile` does where it is no Python."""
    if _HAS_DECORATORS.search(source):
        return False
    body = ast.parse(source, str(file)).body
    return _IS_TEST.fullmatch(file.stem) is not None or _only_defines(body)


def _only_defines(body: list[ast.stmt]) -> bool:
    """Say whether there are functions or classes, and nothing that is done at import."""
    inert = all(isinstance(node, _INERT) or _is_docstring(node) for node in body)
    return inert and any(isinstance(node, _DEFINITIONS) for node in body)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
