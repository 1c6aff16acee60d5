"""Comparing what the workers have loaded: restricted hooks, and the description that is shown."""

from typing import Any, cast

import pytest

from tykpy.broker.catalog.description import signature_of
from tykpy.broker.catalog.served import Served
from tykpy.broker.catalog.spread import Loaded, Spread, spread_of
from tykpy.broker.router.link import Link

FIRST, SECOND, THIRD = (cast(Link, name) for name in ("first", "second", "third"))


def bundle(name: str, *hooks: str, version: str = "1", error: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"/bundles/{name}",
        "hashes": [f"hash of {name}"],
        "version": version,
        "error": {"message": error, "file": "", "line": 0} if error else None,
        "hooks": [{"name": hook, "shape": "request"} for hook in hooks],
        "faulty": [],
    }


SOUND = bundle("a", "one", "two")
BROKEN = bundle("a", error="port taken")


def compared(*descriptions: list[dict[str, Any]]) -> Spread:
    links = (FIRST, SECOND, THIRD)
    return spread_of([Loaded([link], found) for link, found in zip(links, descriptions, strict=False)])


def test_bundles_loaded_by_all_are_not_restricted() -> None:
    assert not any(compared([SOUND], [SOUND]).restrictions)


def test_a_bundle_that_others_do_not_know_is_restricted() -> None:
    assert compared([], [SOUND]).restrictions.hooks["hash of a", "one"] == {SECOND}


def test_a_bundle_that_is_broken_elsewhere_is_restricted() -> None:
    found = compared([BROKEN], [SOUND])
    names = ("one", "two", "*")
    hashes = ("hash of a", "", "d41d8cd98f00b204e9800998ecf8427e")
    assert found.restrictions.hooks == {(digest, name): {SECOND} for digest in hashes for name in names}
    (shown,) = found.description
    assert (shown["loaded_in"], shown["workers"], shown["elsewhere"]) == (1, 2, ["bundle a: port taken"])


def test_a_hook_that_one_version_lacks_is_restricted() -> None:
    found = compared([SOUND], [bundle("a", "one", version="2")])
    assert found.restrictions.hooks["hash of a", "two"] == {FIRST}
    assert ("hash of a", "one") not in found.restrictions.hooks


def test_a_name_in_two_bundles_needs_a_worker_with_both() -> None:
    found = compared(
        [SOUND, bundle("b", error="port taken")], [SOUND, bundle("b", "one")], [BROKEN, bundle("b", "one")]
    )
    assert found.restrictions.hooks["", "one"] == {SECOND}
    assert found.restrictions.hooks["hash of b", "one"] == {SECOND, THIRD}


def test_event_handlers_are_restricted() -> None:
    handling = bundle("a")
    handling["hooks"] = [{"name": "on_it", "shape": "event, spec"}]
    assert compared([handling], [BROKEN]).restrictions.handlers == {"on_it": {FIRST}}


def test_hooks_of_awaited_bundles_have_no_worker_yet() -> None:
    found = spread_of([Loaded([FIRST, SECOND], [BROKEN])], [SOUND])
    assert found.restrictions.hooks["hash of a", "one"] == frozenset()
    (shown,) = found.description
    assert (shown["loaded_in"], shown["workers"], "elsewhere" in shown) == (0, 2, False)


def test_equal_workers_have_equal_signatures() -> None:
    assert signature_of([SOUND, BROKEN]) == signature_of([BROKEN, SOUND])
    others: tuple[list[dict[str, Any]], ...] = (
        [BROKEN],
        [],
        [bundle("a", "one", "two", version="2")],
        [bundle("a", "one")],
    )
    assert len({signature_of(other) for other in ([SOUND], *others)}) == 5


def served(*description: dict[str, Any]) -> Served:
    found = Served()
    found.note(list(description))
    return found


def test_a_replacement_with_other_files_may_lack_hooks() -> None:
    fewer = bundle("a", "one", version="2")
    assert served(SOUND).lacking([fewer]) == ["bundle a: hook two is not there any more"]
    assert served(SOUND).lacking([SOUND | BROKEN | {"version": "2", "hooks": SOUND["hooks"]}]) == [
        "bundle a: port taken"
    ]
    assert served(SOUND).lacking([]) == ["bundle a: /bundles/a is not there any more"]


@pytest.mark.parametrize("after", [BROKEN, SOUND, bundle("a", "two", "one", "three", version="2")])
def test_a_replacement_with_sound_files_lacks_nothing(after: dict[str, Any]) -> None:
    assert served(SOUND).lacking([after]) == []
    assert served(BROKEN).lacking([after]) == []


def test_a_reload_may_not_break_a_shared_bundle() -> None:
    assert served(SOUND).broken([BROKEN], []) == ["bundle a: port taken"]
    assert served(SOUND).broken([BROKEN], ["/bundles/a"]) == []
    assert served(SOUND).broken([BROKEN | {"version": "2"}], ["/bundles/a"]) == ["bundle a: port taken"]
    assert served(BROKEN).broken([BROKEN | {"version": "2"}], []) == []
    assert served(SOUND).broken([], []) == served(SOUND).broken([SOUND, bundle("b", error="new and broken")], []) == []


def test_bundles_that_no_worker_could_reload_are_lost() -> None:
    found = served(SOUND)
    assert found.lost([[BROKEN], [BROKEN]]) == [SOUND]
    assert found.lost([[BROKEN], [SOUND]]) == []
    assert found.lost([[BROKEN | {"version": "2"}]]) == []


def test_a_reload_forgets_other_versions() -> None:
    found = served(SOUND, bundle("b"), bundle("c"))
    found.renew([BROKEN, bundle("b", version="2", error="it broke")])
    assert found.lost([[BROKEN, bundle("b", version="2", error="it broke")]]) == [SOUND]
    assert found.lacking([BROKEN]) == []
