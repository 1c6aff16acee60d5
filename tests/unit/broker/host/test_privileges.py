"""The user that --user and --group name."""

import pwd

import pytest

from tykpy.broker.config import BrokerConfig
from tykpy.broker.host.privileges import TargetUser

KNOWN = pwd.getpwall()[-1]


@pytest.mark.parametrize(
    ("group", "gid"), [(None, KNOWN.pw_gid), ("54322", 54_322)], ids=["the user's own", "another one"]
)
def test_a_named_user_has_its_own_group_by_default(group: str | None, gid: int) -> None:
    identity = TargetUser.wanted(BrokerConfig(user=KNOWN.pw_name, group=group))
    assert identity == (KNOWN.pw_uid, gid, KNOWN.pw_name, KNOWN.pw_dir)


def test_a_number_without_a_name_needs_a_group() -> None:
    assert TargetUser.wanted(BrokerConfig(user="54321", group="54322")) == (54_321, 54_322, "", "")


def test_without_the_option_there_is_no_target_user() -> None:
    assert TargetUser.wanted(BrokerConfig()) is None
