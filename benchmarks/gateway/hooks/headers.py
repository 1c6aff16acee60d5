"""Five hooks that set a header each."""

from typing import Any

from tyk.decorators import Pre


@Pre
def header_1(request: Any, session: Any, spec: Any) -> Any:
    """Set the first header."""
    request.add_header("X-Bench-1", "1")
    return request, session


@Pre
def header_2(request: Any, session: Any, spec: Any) -> Any:
    """Set the second header."""
    request.add_header("X-Bench-2", "2")
    return request, session


@Pre
def header_3(request: Any, session: Any, spec: Any) -> Any:
    """Set the third header."""
    request.add_header("X-Bench-3", "3")
    return request, session


@Pre
def header_4(request: Any, session: Any, spec: Any) -> Any:
    """Set the fourth header."""
    request.add_header("X-Bench-4", "4")
    return request, session


@Pre
def header_5(request: Any, session: Any, spec: Any) -> Any:
    """Set the fifth header."""
    request.add_header("X-Bench-5", "5")
    return request, session
