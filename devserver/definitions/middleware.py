"""The section `custom_middleware` of manifests and classic definitions, and what several bundles make of it."""

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from tykpy.devserver.definitions.api import ConfiguredHook, IdExtractor, Middleware
from tykpy.devserver.errors import DevError


class HookEntry(msgspec.Struct):
    """One hook; without a name it is none."""

    name: str = ""
    disabled: bool = False
    raw_body_only: bool = False


class ExtractorConfig(msgspec.Struct):
    """The options of an id extractor."""

    header_name: str = ""
    param_name: str = ""
    regex_expression: str = ""
    regex_match_index: float = 0
    xpath_expression: str = ""


class ExtractorEntry(msgspec.Struct):
    """An id extractor."""

    disabled: bool = False
    extract_from: str = ""
    extract_with: str = ""
    extractor_config: ExtractorConfig = msgspec.field(default_factory=ExtractorConfig)

    def read(self) -> IdExtractor | None:
        """Return what it says; None if there is none."""
        if self.disabled or not self.extract_with:
            return None
        config = self.extractor_config
        is_regex = self.extract_with == "regex"
        return IdExtractor(
            source=self.extract_from,
            method=self.extract_with,
            header=config.header_name,
            parameter=config.param_name,
            expression=config.regex_expression if is_regex else config.xpath_expression,
            match=int(config.regex_match_index),
        )


class MiddlewareEntry(msgspec.Struct):
    """The section."""

    driver: str = ""
    pre: list[HookEntry] = []
    auth_check: HookEntry = msgspec.field(default_factory=HookEntry)
    post_key_auth: list[HookEntry] = []
    post: list[HookEntry] = []
    response: list[HookEntry] = []
    id_extractor: ExtractorEntry = msgspec.field(default_factory=ExtractorEntry)

    def read(self) -> Middleware:
        """Return the hooks that are not disabled."""
        return Middleware(
            driver=self.driver.lower(),
            pre=_enabled(self.pre),
            auth_check=next(iter(_enabled([self.auth_check])), None),
            post_key_auth=_enabled(self.post_key_auth),
            post=_enabled(self.post),
            response=_enabled(self.response),
            id_extractor=self.id_extractor.read(),
        )


class ManifestFile(msgspec.Struct):
    """What the gateway takes from a manifest."""

    custom_middleware: MiddlewareEntry = msgspec.field(default_factory=MiddlewareEntry)
    file_list: list[str] = []


def joined(parts: Iterable[tuple[str, Middleware]]) -> Middleware:
    """Append the hooks of several bundles, as Tyk's `mergeBundleManifest` (v5.15); `parts` are named.

    Raises DevError if their drivers differ, or several have an auth hook.
    """
    (_, whole), *others = parts
    for name, part in others:
        if part.driver != whole.driver:
            raise DevError(f"bundle {name}: driver {part.driver!r}, but earlier bundles have {whole.driver!r}")
        if part.auth_check and whole.auth_check:
            first, second = whole.auth_check.name, part.auth_check.name
            raise DevError(f"bundle {name}: auth_check {second!r}, but another bundle has {first!r}")
        whole = replace(
            whole,
            pre=whole.pre + part.pre,
            auth_check=whole.auth_check or part.auth_check,
            post_key_auth=whole.post_key_auth + part.post_key_auth,
            post=whole.post + part.post,
            response=whole.response + part.response,
            id_extractor=whole.id_extractor or part.id_extractor,
        )
    return whole


def _enabled(entries: Iterable[HookEntry]) -> tuple[ConfiguredHook, ...]:
    return tuple(
        ConfiguredHook(entry.name, entry.raw_body_only) for entry in entries if entry.name and not entry.disabled
    )
