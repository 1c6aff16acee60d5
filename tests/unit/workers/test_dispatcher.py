"""What a dispatcher remembers of hooks is forgotten when bundles change, also by a thread that is looking just then."""

from pathlib import Path
from typing import cast

from ipc.frame import Kind, pack_frame
from tests.support.bundles import subject
from workers.bundle import Bundle
from workers.dispatcher import Dispatcher
from workers.hook import Hook
from workers.invocation import HookInvocation
from workers.lookup import Lookup
from workers.store import BundleStore


def test_a_hook_found_before_a_change_is_not_kept(tmp_path: Path) -> None:
    dispatcher = Dispatcher(BundleStore([tmp_path], tmp_path / "unpacked"))
    old, new = (cast(Hook, type("Named", (), {"is_async": False})) for _ in range(2))

    class Changing(Lookup):
        """Bundles change while the first hook is looked for."""

        found = old

        def hook(self, bundle_hash: str, name: str) -> Hook:
            found = self.found
            if found is old:
                self.found = new
                dispatcher._on_load(Bundle("b", (), tmp_path, ()))
            return found

    dispatcher._lookup = Changing(BundleStore([tmp_path], tmp_path / "unpacked"))
    request = pack_frame(Kind.OBJECT, None, subject("H").SerializeToString())
    hooks = [cast(HookInvocation, dispatcher.prepare(request)).hook for _ in range(3)]
    assert hooks == [old, new, new]
