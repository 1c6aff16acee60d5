"""What looks secret is masked where values are shown."""

import pytest

from tyk.proto.coprocess_mini_request_object_pb2 import MiniRequestObject
from tyk.proto.coprocess_session_state_pb2 import SessionState
from tykpy.devserver.hooks.masking import MASK, is_secret, is_secret_path, masked


@pytest.mark.parametrize("name", ["password", "API_KEY", "X-Api-Key", "Authorization", "Set-Cookie", "refresh_token"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["path", "Content-Type", "key", "user"])
def test_other_names(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "text",
    [
        "{'Authorization': 'Bearer hunter2hunter2', 'Accept': '*/*'}",
        """{"Cookie": "a=hunter2", "n": 1}""",
        "{'password': b'it\\'s hunter2'}",
        "{'token': 'hunter2 that is cut",
        "Authorization: Bearer hunter2hunter2",
        "GET /orders?id=1&api_key=hunter2&x=1",
        str(MiniRequestObject(headers={"X-Api-Key": "hunter2"})),
        str(SessionState(hmac_secret="hunter2", basic_auth_data={"password": "hunter2"})),
    ],
)
def test_values_of_secrets_are_masked(text: str) -> None:
    shown = masked(text)
    assert "hunter2" not in shown
    assert MASK in shown


def test_the_rest_stays() -> None:
    assert masked("/orders?token=a&id=1") == f"/orders?token={MASK}&id=1"
    assert masked("{'Cookie': 'a', 'Accept': '*/*'}") == f"{{'Cookie': '{MASK}', 'Accept': '*/*'}}"


@pytest.mark.parametrize("path", ["session.hmac_secret", "request.headers['Cookie']", 'spec["token"]', "a['x'].token"])
def test_paths_of_secrets(path: str) -> None:
    assert is_secret_path(path)


@pytest.mark.parametrize("path", ["session.rate", "spec['token'].name", "request.headers['X-Id']", "tags[0]"])
def test_other_paths(path: str) -> None:
    assert not is_secret_path(path)
