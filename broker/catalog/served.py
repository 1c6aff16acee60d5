"""The version of each bundle that the pool serves: what a new worker is measured by."""

from collections.abc import Iterable, Iterator
from typing import Any

from tykpy.broker.catalog.bundle_report import Description, problems_of
from tykpy.broker.catalog.spread import is_sound

Bundle = dict[str, Any]


class Served:
    """The bundles that some worker has loaded soundly since the last reload, as it described them, by path."""

    def __init__(self) -> None:
        self._bundles: dict[str, Bundle] = {}

    @property
    def versions(self) -> dict[str, str]:
        """The version of each bundle, by path."""
        return {path: bundle["version"] for path, bundle in self._bundles.items()}

    def note(self, description: Description) -> None:
        """A worker that has loaded this gets dispatches."""
        self._bundles.update({bundle["path"]: bundle for bundle in description if is_sound(bundle)})

    def renew(self, description: Description) -> None:
        """New workers replace all others: forget what is gone or has other files, and take what they have loaded."""
        versions = {bundle["path"]: bundle["version"] for bundle in description}
        self._bundles = {
            path: bundle for path, bundle in self._bundles.items() if versions.get(path) == bundle["version"]
        }
        self.note(description)

    def forget(self, path: str) -> None:
        """A bundle is not to be served any more."""
        self._bundles.pop(path, None)

    def lacking(self, description: Description) -> list[str]:
        """What a worker with other files than are served could not load of it, or does not find any more."""
        found = {bundle["path"]: bundle for bundle in description}
        return list(self._lacking(found))

    def broken(self, description: Description, exclusive: Iterable[str]) -> list[str]:
        """What new workers that are to replace all others could not load, and that is served.

        `exclusive`: paths of bundles that perhaps only one worker at a time can load. With the files as they were, a
        new worker that could not load one is no reason against it: an old one still has what the bundle needs.
        """
        spared = set(exclusive)
        return [
            problem
            for bundle in description
            if (before := self._bundles.get(bundle["path"])) is not None
            and not (bundle["path"] in spared and bundle["version"] == before["version"])
            for problem in problems_of(bundle)
        ]

    def lost(self, descriptions: Iterable[Description]) -> list[Bundle]:
        """The bundles that none of these workers has loaded, although one has tried to with the files as they were."""
        tried: set[str] = set()
        loaded: set[str] = set()
        for description in descriptions:
            for bundle in description:
                before = self._bundles.get(bundle["path"])
                if is_sound(bundle):
                    loaded.add(bundle["path"])
                elif before is not None and before["version"] == bundle["version"]:
                    tried.add(bundle["path"])
        return [self._bundles[path] for path in sorted(tried - loaded)]

    def _lacking(self, found: dict[str, Bundle]) -> Iterator[str]:
        for path, before in self._bundles.items():
            bundle = found.get(path)
            if bundle is None:
                yield f"bundle {before['name']}: {path} is not there any more"
            elif bundle["version"] != before["version"]:
                names = {hook["name"] for hook in bundle["hooks"]}
                gone = [hook["name"] for hook in before["hooks"] if hook["name"] not in names]
                missing = (f"bundle {before['name']}: hook {name} is not there any more" for name in gone)
                yield from list(problems_of(bundle)) or missing
