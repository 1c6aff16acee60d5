"""All rules by name: what each finds, and how bad that is. Each has a page in docs/lint."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tykpy.workers.dispatch import ignored_changes
from tykpy.workers.dispatch.ignored_changes import Ignored

Level: TypeAlias = Literal["error", "warning"]
Finder: TypeAlias = Literal["lint", "convert", "worker"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str
    """The name in findings and in `# tykpy: ignore[NAME]`."""
    summary: str
    """What it finds, without a full stop."""
    level: Level = "warning"
    """"error": the hook, its bundle or the request fails; "warning": something has no effect, or a surprising one."""
    found_by: Finder = "lint"
    """"convert": only `tykpy bundle convert` has it; "worker": only a worker finds it, when the hook runs."""


UNKNOWN_RULE: Final = Rule("unknown-rule", "a comment ignores a rule that does not exist")
UNUSED_IGNORE: Final = Rule("unused-ignore", "a comment ignores what is not found on its line")

_FAILS: Final = frozenset({"no-token", "override-code", "response-status", "rewritten-path", "url-empty"})
_AT_RUN_TIME: Final = frozenset({"rewritten-params", "rewritten-path"})


def _rule_of(ignored: Ignored) -> Rule:
    level: Level = "error" if ignored.rule in _FAILS else "warning"
    return Rule(ignored.rule, ignored.what, level, "worker" if ignored.rule in _AT_RUN_TIME else "lint")


_ALL: Final = (
    Rule("bundle", "a bundle of a folder of many cannot be read", "error"),
    Rule("syntax", "a file cannot be parsed, and so not be imported", "error"),
    Rule("nesting", "a file is nested too deeply to be looked at"),
    Rule("hook-missing", "the manifest lists a hook that no file defines", "error"),
    Rule("file-missing", "the manifest lists a file that is not there", "error"),
    Rule("hook-unlisted", "the manifest lists hooks, but not this one"),
    Rule("hook-undecorated", "the manifest lists a function that has no decorator", "error"),
    Rule("hook-arguments", "a hook's number of arguments fits no shape", "error"),
    Rule("cannot-load", "no supported Python can load a compiled file", "error"),
    Rule("several", "bundles of one API do not work together", "error"),
    Rule("missing-return", "a hook returns nothing, or on some paths only", "error"),
    Rule("return-value", "a hook returns too few values, or values in the wrong order or of no effect", "error"),
    Rule("blocking-call", "a call in an `async def` stops all async hooks of the worker"),
    Rule("shared-state", "state is kept for the next call in memory, of which each worker has its own"),
    *(_rule_of(value) for value in vars(ignored_changes).values() if isinstance(value, Ignored)),
    UNKNOWN_RULE,
    UNUSED_IGNORE,
    Rule("removed-module", "an import needs a module that newer Pythons do not have", "error", "convert"),
    Rule("event", "an event handler never ran in embedded Python; now it runs", "warning", "convert"),
    Rule("async", "an `async def` hook was never awaited in embedded Python; now it runs", "warning", "convert"),
    Rule("returned-object", "objects that embedded Python ignored count when they are returned", "warning", "convert"),
    Rule("lock", "a lock holds within one worker process only", "warning", "convert"),
    Rule("thread", "a thread that is started at import exists in every worker", "warning", "convert"),
    Rule("trigger-event", "triggered events do not reach the gateway's own handlers", "warning", "convert"),
    Rule("chain", "hooks are called together, which changes something", "warning", "convert"),
)

RULES: Final = {rule.name: rule for rule in _ALL}
