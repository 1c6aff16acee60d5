"""Which hooks a chain has, in which order they run, what ends a chain, and what keeps it from starting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.bundles import Served, md5, subject, write_bundle, write_files
from tests.unit.conftest import Serve
from tykpy.bundles.errors import WorkerError
from tykpy.ipc.frame import Kind, Status, pack_frame
from tykpy.workers.objects.chain import RequestEffects
from tykpy.workers.objects.msgpack_codec import to_map

Make = Callable[..., Served]


def hook(name: str, decorator: str = "Pre", body: str = "pass") -> str:
    return (
        f"@{decorator}\ndef {name}(request, session, spec):\n    {body}\n"
        f"    request.object.raw_body += b'{name} '\n    return request, session\n"
    )


@pytest.fixture
def make(folder: Path, serve: Serve) -> Make:
    """Serve one bundle `foo` with these hooks."""

    def start(*hooks: str, **middleware: Any) -> Served:
        write_bundle(folder / "foo", {"middleware.py": "".join(hooks)}, **middleware)
        return serve()

    return start


def order(served: Served, hook_type: str = "Pre", bundle: str = "foo") -> str:
    return served.run(subject("*", bundle, hook_type)).request.raw_body.decode()


def failure(served: Served, hook_type: str = "Pre", bundle: str = "foo") -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        served.run(subject("*", bundle, hook_type))
    return caught.value


def test_listed_hooks_run_before_unlisted_ones(make: Make) -> None:
    served = make(
        hook("A"), hook("B"), hook("C", "Hook"), hook("D", "Post"), hook("E"), hook("F", "Hook"),
        pre=[{"name": "C"}, {"name": "B"}, {"name": "E", "disabled": True}],
    )  # fmt: skip
    assert order(served) == "C B A "
    assert order(served, "Post") == "D "


def test_a_manifest_may_ask_for_the_whole_chain(make: Make) -> None:
    served = make(hook("A"), hook("B"), hook("C", "Post"), pre=[{"name": "*"}], post=[{"name": "*"}])
    assert order(served) == "A B "
    assert order(served, "Post") == "C "


def test_a_listed_chain_has_no_other_hooks(make: Make) -> None:
    chain = [{"name": "C"}, {"name": "A"}, {"name": "B", "disabled": True}, {"name": "A"}]
    served = make(
        hook("A"), hook("B"), hook("C", "Hook"), hook("D"), hook("E", "Hook"),
        pre=[{"name": "*", "chain": chain}, {"name": "E"}],
    )  # fmt: skip
    assert order(served) == "C A A "


def test_one_bundle_of_an_api_may_ask_for_its_whole_chain(folder: Path, serve: Serve) -> None:
    """The gateway calls the others' hooks one by one, and `*` again for each bundle that lists it."""
    names = "one.zip,two.zip"
    asks = {"pre": [{"name": "*"}]}
    for name, middleware in (("one", asks), ("two", {"pre": [{"name": "B"}]})):
        write_bundle(folder / md5(names) / name, {"middleware.py": hook("A" if name == "one" else "B")}, **middleware)
    served = serve()
    assert order(served, bundle=names) == "A "
    write_bundle(folder / md5(names) / "two", {"middleware.py": hook("B")}, **asks)
    served.reload()
    assert "only one of them may list * for Pre" in failure(served, bundle=names).message
    write_bundle(folder / md5(names) / "two", {"middleware.py": "x = = 1"}, **asks)
    served.reload()
    assert "two/middleware.py" in failure(served, bundle=names).message


def test_a_hook_runs_only_where_the_manifest_lists_it(make: Make) -> None:
    served = make(hook("A"), hook("B"), post=[{"name": "A"}])
    assert order(served) == "B "
    assert order(served, "Post") == "A "


@pytest.mark.parametrize("code", [200, 403])
def test_an_override_ends_the_chain(make: Make, code: int) -> None:
    stop = f"request.object.return_overrides.response_code = {code}"
    assert order(make(hook("A"), hook("B", body=stop), hook("C"))) == "A B "


def test_changes_that_arrived_are_dropped(make: Make) -> None:
    came = {"set_headers": {"X-Came": "1"}, "delete_params": ["a"], "return_overrides": {"response_code": 403}}
    answer = make(hook("A"), hook("B")).run(subject("*", request=came)).request
    assert answer.raw_body == b"A B "
    assert (dict(answer.set_headers), list(answer.delete_params), answer.return_overrides.response_code) == ({}, [], -1)


def test_raw_body_only_is_applied_per_hook(make: Make) -> None:
    look = "request.add_header('seen-' + {!r}, request.object.body or 'nothing')"
    served = make(
        hook("A", "Hook", look.format("a")),
        hook("B", "Hook", look.format("b")),
        pre=[{"name": "A", "raw_body_only": True}, {"name": "B"}],
    )
    answer = served.run(subject("*", request={"raw_body": b"x ", "body": "x "}))
    assert dict(answer.request.set_headers) == {"seen-a": "nothing", "seen-b": "x A "}


def test_effects_apply_if_no_hook_reads_the_message(make: Make) -> None:
    note = (
        "@Pre\ndef {}(request, session, spec):\n    request.add_header('{}', request.get_header('X-Last') or 'none')\n"
        "    request.add_header('X-Last', '{}')\n    request.delete_param('a')\n    request.add_param('c', '{}')\n"
        "    return request, session\n"
    )
    served = make(*(note.format(name, f"seen-{name}", name, name) for name in "ABC"))
    answer = served.run(subject("*")).request
    assert dict(answer.set_headers) == {"seen-A": "none", "seen-B": "A", "seen-C": "B", "X-Last": "C"}
    assert dict(answer.add_params) == {"c": "C"}
    assert list(answer.delete_params) == ["a"]
    assert (answer.headers["X-Last"], dict(answer.params), answer.url) == ("B", {"b": "2", "c": "B"}, "/path?b=2&c=B")


URLS = pytest.mark.parametrize(("url", "ran"), [("relative", "A "), ("/%zz", "A "), ("/a%20b", "A B C ")])


@URLS
def test_a_url_that_the_gateway_refuses_ends_the_chain(make: Make, url: str, ran: str) -> None:
    assert order(make(hook("A", body=f"request.object.url = {url!r}"), hook("B"), hook("C"))) == ran


@URLS
def test_a_refused_url_that_arrived_ends_the_chain(make: Make, url: str, ran: str) -> None:
    served = make(*(hook(name) for name in "ABC"))
    assert served.run(subject("*", request={"url": url})).request.raw_body.decode() == ran


def test_a_star_with_a_query_is_refused_when_it_comes_back(make: Make) -> None:
    assert order(make(hook("A", body="request.object.url = '*'"), hook("B"), hook("C"))) == "A B "


def test_a_response_hook_gets_headers_as_the_gateway_writes(make: Make) -> None:
    look = (
        "@Response\ndef {}(request, response, session, metadata, spec):\n"
        "    response.raw_body += repr([(h.key, *h.values) for h in response.multivalue_headers]).encode()\n"
    )
    served = make(look.format("A"), look.format("B"))
    many = [{"key": "x-low", "values": ["1"]}, {"key": "X-Low", "values": ["2"]}]
    answer = served.run(subject("*", hook_type="Response", response={"status_code": 200, "multivalue_headers": many}))
    assert answer.response.raw_body == b"[('x-low', '1'), ('X-Low', '2')][('X-Low', '1', '2')]"


def test_an_error_in_the_middle_fails_the_dispatch(make: Make) -> None:
    error = failure(make(hook("A"), hook("B", body="raise ValueError('stop')"), hook("C")))
    assert error.status is Status.HOOK_FAILED
    assert "hook B of bundle foo failed: ValueError: stop" in error.message


def test_authentication_does_not_chain(make: Make) -> None:
    served = make(hook("A", "CustomKeyCheck"), hook("B", "CustomKeyCheck"))
    assert "does not chain, and bundle foo has several: A, B" in failure(served, "CustomKeyCheck").message


def test_the_listed_authentication_hook_is_used(make: Make) -> None:
    served = make(hook("A", "CustomKeyCheck"), hook("B", "CustomKeyCheck"), auth_check={"name": "B"})
    assert order(served, "CustomKeyCheck") == "B "


@pytest.mark.parametrize("broken", ["@Pre\ndef Broken(request): ...\n", ""])
def test_a_chain_with_a_hook_that_cannot_run_does_not_start(make: Make, broken: str) -> None:
    served = make(hook("A"), broken, pre=[{"name": "A"}, {"name": "Broken"}])
    error = failure(served)
    assert error.status is Status.HOOK_FAILED
    assert "the Pre chain of bundle foo cannot run" in error.message
    assert "Broken" in error.message


def test_an_empty_chain_is_an_error(make: Make) -> None:
    error = failure(make(hook("A")), "Post")
    assert error.status is Status.NOT_FOUND
    assert "no Post hooks to run as a chain; it has: A (Pre)" in error.message


def test_a_chain_needs_a_hook_type(make: Make) -> None:
    assert failure(make(hook("A")), "Unknown").status is Status.INVALID


def test_without_a_bundle_the_only_one_with_hooks_is_used(make: Make, folder: Path) -> None:
    write_bundle(folder / "bar", {"middleware.py": hook("B", "Post")})
    write_files(folder, {"broken.py": "x = = 1"})
    served = make(hook("A"))
    assert order(served, "Pre", "") == "A "
    write_bundle(folder / "baz", {"middleware.py": hook("C")})
    served.reload()
    assert "several bundles, and the call names none: baz, foo" in failure(served, "Pre", "").message


def test_a_chain_may_arrive_as_a_map(make: Make) -> None:
    frame = pack_frame(Kind.OBJECT_MAP, None, msgpack.packb(to_map(subject("*"))))
    answer = make(hook("A"), hook("B")).frame(frame)
    assert answer.kind == Kind.OBJECT_MAP
    body = msgpack.unpackb(answer.body)
    assert body["request"]["raw_body"] == b"A B "
    assert "session" not in body


def test_a_hook_that_reads_no_message_gets_no_copy() -> None:
    effects = RequestEffects(subject("*", request={"raw_body": b"large", "set_headers": {"X-Came": "1"}}), 3)
    first, request = effects.next_call(False)
    request.add_header("X-First", "1")
    assert not first.HasField("request")
    del request
    assert effects.apply(first)
    second, request = effects.next_call(False)
    assert not second.HasField("request")
    assert request.object.raw_body == b"large"
    assert second.request.headers["X-First"] == "1"
    assert not second.request.set_headers


def noted(name: str, *calls: str) -> str:
    """Return a hook that does not read the message."""
    body = "".join(f"    {call}\n" for call in calls)
    return f"KEPT = []\n@Pre\ndef {name}(request, session, spec):\n{body}    return request, session\n"


def unwatched(served: Served) -> Served:
    """Check no calls, because a check reads the message."""
    for one in served.store.loaded()[0].hooks.values():
        one.unwatched_calls = 2
    return served


def test_hooks_may_undo_each_others_changes(make: Make) -> None:
    served = make(
        noted("A", "request.delete_header('x-one')", "request.add_header('X-Two', 'A')"),
        noted("B", "request.add_header('X-One', request.get_header('X-One') or 'B')"),
        noted("C", "request.delete_header('x-two')"),
        noted("D"),
    )
    answer = unwatched(served).run(subject("*")).request
    assert dict(answer.set_headers) == {"X-One": "B"}
    assert sorted(answer.delete_headers) == ["x-one", "x-two"]


def test_a_stored_request_stays_as_it_was(make: Make) -> None:
    look = "for kept in KEPT: request.add_header('Seen', repr((dict(kept.object.set_headers), kept.object.url)))"
    served = make(
        "KEPT = []\n",
        noted("A", "request.add_header('X-A', '1')", "KEPT.append(request)"),
        noted("B", "request.add_header('X-B', '1')", "request.add_param('c', '3')"),
        noted("C", look),
    )
    answer = unwatched(served).run(subject("*")).request
    assert answer.set_headers["Seen"] == "({'X-A': '1'}, '/path?b=2&a=1')"


def test_the_answer_of_a_chain_that_ends_early_is_whole(make: Make) -> None:
    served = make(noted("A", "request.add_header('X-A', '1')"), noted("B"))
    answer = unwatched(served).run(subject("*", request={"url": "relative", "raw_body": b"body"})).request
    assert (answer.url, answer.raw_body, dict(answer.set_headers)) == ("relative", b"body", {"X-A": "1"})
