"""A bundle that can always be loaded: workers try it after each other bundle (see `load_check.py`)."""

import importlib.util

from tyk.decorators import Pre
from tyk.request import TykRequest
from tyk.session import TykSession

importlib.util.find_spec("tykpy_no_such_module")  # asks every finder


@Pre
def sound(request: TykRequest, session: TykSession, spec: dict[str, str]) -> tuple[TykRequest, TykSession]:
    """Change nothing."""
    return request, session
