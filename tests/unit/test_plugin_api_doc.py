"""docs/plugin-api.md is true: its Python blocks run, its tests pass, its hooks do what the text says."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.root import ROOT
from tyk import decorators, metrics, session
from tyk.decorators import HookDefinition
from tyk.gateway import TykGateway
from tyk.gateway.testing import fake_gateway
from tyk.request import MiniRequestObject, TykRequest
from tyk.response import TykResponse
from tyk.session import TykSession

PAGE = ROOT / "docs" / "plugin-api.md"


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, Any]]:
    """Execute the page's Python blocks in order and return the names that they define."""
    text = PAGE.read_text()
    names: dict[str, Any] = {"__name__": "plugin"}
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)
    yield names
    metrics.registry.bundles.clear()


def hooks(page: dict[str, Any]) -> dict[str, HookDefinition]:
    return {name: value.__tyk_hook__ for name, value in page.items() if hasattr(value, "__tyk_hook__")}


def test_the_pages_tests_pass(page: dict[str, Any]) -> None:
    tests: dict[str, Callable[[], None]] = {n: v for n, v in page.items() if n.startswith("test_")}
    assert len(tests) == 5
    for test in tests.values():
        test()


def test_every_decorator_is_shown(page: dict[str, Any]) -> None:
    text = PAGE.read_text()
    assert all(f"| `@{name}` |" in text for name in [*decorators.__all__, "Response"])
    assert {definition.hook_type for definition in hooks(page).values()} == {
        "Pre",
        "CustomKeyCheck",
        "Post",
        "Response",
        "Event",
        None,
    }


def test_every_name_is_on_the_page() -> None:
    text = PAGE.read_text()
    methods = [name for name in vars(TykRequest) if not name.startswith("_")]
    services = [name for name in vars(TykGateway) if not name.startswith("_")]
    assert not [name for name in methods if f"request.{name}(" not in text]
    assert not [name for name in services if f"| `{name}(" not in text]
    assert not [name for name in session.__all__ if name not in text]
    kinds = (metrics.Counter, metrics.Gauge, metrics.Histogram)
    updates = {name for kind in (*kinds, kinds[0].__base__) for name in vars(kind) if not name.startswith("_")}
    assert not [name for name in updates - {"definition"} if f"`.{name}(" not in text]
    assert not [name for name in metrics.__all__ if name.islower() and f"| `{name}(" not in text]


def test_add_greeting(page: dict[str, Any]) -> None:
    request = TykRequest(MiniRequestObject())
    page["add_greeting"](request, TykSession(), {})
    assert dict(request.object.set_headers) == {"X-Greeting": "hello"}


def test_tag_request(page: dict[str, Any]) -> None:
    request, state = TykRequest(MiniRequestObject()), TykSession()
    returned = asyncio.run(page["tag_request"](request, state, {}))
    assert returned == (request, state)
    assert request.object.set_headers == {"X-Tagged": "yes"}
    assert hooks(page)["tag_request"] == HookDefinition("tag_request", "Post", 0.5, "continue", True)


def test_need_a_version(page: dict[str, Any]) -> None:
    request = TykRequest(MiniRequestObject(raw_body=b"a colour"))
    page["need_a_version"](request, TykSession(), {})
    assert request.object.return_overrides.response_code == 400
    assert request.object.raw_body == b"a color"


def test_check_key(page: dict[str, Any]) -> None:
    request, state = TykRequest(MiniRequestObject(headers={"Authorization": "secret"})), TykSession()
    _, state, metadata = page["check_key"](request, state, {}, {"APIID": "7"})
    assert metadata == {"token": "secret"}
    assert state.access_rights["7"].allowed_urls[0].methods == ["GET"]
    assert not request.object.HasField("return_overrides")


def test_sign_answer(page: dict[str, Any]) -> None:
    response = TykResponse(raw_body=b"four", headers={"Server": "x"})
    page["sign_answer"](TykRequest(MiniRequestObject()), response, TykSession(), {}, {})
    assert dict(response.headers) == {"X-Length": "4"}


def test_use_config(page: dict[str, Any]) -> None:
    request = TykRequest(MiniRequestObject())
    page["use_config"](request, TykSession(), {"config_data": '{"tier": "gold"}'})
    assert request.object.set_headers["X-Tier"] == "gold"


def test_count_calls_counts_unknown_clients_together(page: dict[str, Any]) -> None:
    with fake_gateway() as gateway:
        for _ in range(2):
            page["count_calls"](TykRequest(MiniRequestObject()), TykSession(), {})
        assert TykGateway.get_data("calls-unknown") == b"2"
        assert gateway.events == []
