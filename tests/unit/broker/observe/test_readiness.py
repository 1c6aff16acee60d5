"""Whether a broker is ready, by what is required."""

import pytest

from tests.support.snapshots import a_snapshot
from tykpy.broker.codes import ServingStatus
from tykpy.broker.config import BrokerConfig
from tykpy.broker.errors import ConfigError
from tykpy.broker.grpc.health import BROKER_SERVICES
from tykpy.broker.observe.readiness import MAX_SHOWN, Readiness, serving_statuses
from tykpy.telemetry.snapshot import BundleState, NotReady


def bundle(name: str, state: str = "loaded", *, faulty: int = 0, loaded_in: int = 2) -> BundleState:
    return BundleState(name, "abc", state, faulty, 1, 2, loaded_in)


GOOD = bundle("good")
BROKEN = bundle("broken", "failed", loaded_in=0)
HALF = bundle("half", loaded_in=1)
FAULTY = bundle("faulty", faulty=1)
HASHED = bundle("8d777f385d3dfec8815d20f7496026dc")  # MD5 of "data"


@pytest.mark.parametrize(
    ("required", "bundles", "unloaded", "is_ready"),
    [
        ("any", [], {}, True),
        ("any", [GOOD, BROKEN], {}, True),
        ("any", [BROKEN], {}, False),
        ("any", [], {"new": "not loaded yet"}, False),
        ("any", [HALF], {}, True),
        ("any", [FAULTY], {}, True),
        ("all", [], {}, True),
        ("all", [GOOD], {}, True),
        ("all", [GOOD, BROKEN], {}, False),
        ("all", [GOOD, HALF], {}, False),
        ("all", [GOOD, FAULTY], {}, False),
        ("all", [GOOD], {"new": "not loaded yet"}, False),
        ("good", [GOOD, BROKEN], {}, True),
        ("good, half", [GOOD, HALF, BROKEN], {}, True),
        ("good,broken", [GOOD, BROKEN], {}, False),
        ("missing", [GOOD], {}, False),
        ("data", [HASHED], {}, True),
    ],
)
def test_bundles_that_are_required(
    required: str, bundles: list[BundleState], unloaded: dict[str, str], is_ready: bool
) -> None:
    found = Readiness(required).judge(1, bundles, unloaded, draining=False)
    assert [one.reason for one in found] == ([] if is_ready else ["bundles"])


def test_a_broker_without_workers_is_not_ready() -> None:
    (reason,) = Readiness("all").judge(0, [BROKEN], {}, draining=False)
    assert reason.reason == "no_workers"


def test_a_draining_broker_is_not_ready() -> None:
    (reason,) = Readiness("any").judge(1, [GOOD], {}, draining=True)
    assert reason.reason == "draining"


def test_a_reason_names_a_few_bundles() -> None:
    many = [bundle(f"bundle-{number}", "failed") for number in range(1_000)]
    (reason,) = Readiness("all").judge(1, many, {}, draining=False)
    assert reason.text.count("bundle-") == MAX_SHOWN
    assert f"and {1_000 - MAX_SHOWN} more" in reason.text


def test_each_bundle_has_a_status_of_its_own() -> None:
    snapshot = a_snapshot()
    snapshot.not_ready = [NotReady("bundles", "broken is failed")]
    assert serving_statuses(snapshot, [GOOD, BROKEN], ["new"], BROKER_SERVICES) == {
        "": ServingStatus.NOT_SERVING,
        "coprocess.Dispatcher": ServingStatus.NOT_SERVING,
        "bundle/good": ServingStatus.SERVING,
        "bundle/broken": ServingStatus.NOT_SERVING,
        "bundle/new": ServingStatus.NOT_SERVING,
    }


@pytest.mark.parametrize("required", ["", " ", ",", " , "])
def test_required_names_cannot_be_empty(required: str) -> None:
    with pytest.raises(ConfigError, match="--require-bundles"):
        BrokerConfig(require_bundles=required)
