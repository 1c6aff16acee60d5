"""The development gateway without its HTTP server: what it was told, what it has loaded, and what it has done."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tykpy.devserver.definitions.api import Api, find_api
from tykpy.devserver.definitions.apis import check_unique, definition_files, read_api, with_bundle, with_decorated_hooks
from tykpy.devserver.definitions.bundles import BundleFiles, default_api, middleware_of_hooks
from tykpy.devserver.endings import MIDDLEWARE_ERROR, ErrorTemplates, Refused
from tykpy.devserver.errors import DefinitionError, DevError
from tykpy.devserver.hooks.contract import Hooks, LoadedBundles, Problem, SourceFrame
from tykpy.devserver.hooks.problems import AROUND, LOAD_FAILED
from tykpy.devserver.identity.keys import Keys, read_keys, read_policies
from tykpy.devserver.messages import GatewayRequest
from tykpy.devserver.pipeline import GatewayPipeline, Observer, Upstream
from tykpy.devserver.trace import Trace

_EVENT: Final = "Event"
KEPT_TRACES: Final = 200
KEPT_BYTES: Final = 128 * 1024 * 1024
"""Bytes of bodies and objects in them."""


@dataclass(frozen=True, slots=True)
class DevFiles:
    """The files that the gateway reads."""

    bundle: Path | None = None
    """A bundle, or a folder of bundles."""
    apis: tuple[Path, ...] = ()
    """API definitions, and folders of them; none: the bundle is served at `/`."""
    keys: Path | None = None
    """Sessions by their keys, as JSON."""
    policies: Path | None = None
    """Tyk's policies.json."""
    templates: Path | None = None
    """A folder of error templates, Tyk's `template_path`."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(
            path for path in (self.bundle, *self.apis, self.keys, self.policies, self.templates) if path is not None
        )


class LoadingHooks(Hooks, Protocol):
    """Hooks that can load their bundles again."""

    async def reload(self) -> LoadedBundles:
        """Load the bundles as they are now. Raises DevError."""


@dataclass(frozen=True, slots=True)
class Loading:
    """What came of reading all files."""

    apis: tuple[Api, ...] = ()
    loaded: LoadedBundles = LoadedBundles()
    problems: tuple[Problem, ...] = ()
    """Of the bundles, and of other files. An API whose files cannot be read is not served."""
    warnings: tuple[str, ...] = ()


class DevGateway:
    """Loads, answers requests, and remembers the last ones."""

    def __init__(self, sources: DevFiles, hooks: LoadingHooks, upstream: Upstream, keys: Keys | None = None) -> None:
        self._sources = sources
        self._hooks = hooks
        self._given_keys = keys
        self._usable = asyncio.Event()
        self.loading = Loading()
        self.traces: deque[Trace] = deque(maxlen=KEPT_TRACES)
        """The last requests, oldest first."""
        self.on_load: list[Callable[[Loading], None]] = []
        self.pipeline = GatewayPipeline((), hooks, upstream, keys or Keys())
        self.pipeline.observers.append(self._remember)

    @property
    def observers(self) -> list[Observer]:
        """Called with every trace when its request has been answered, and again when an event handler has ended."""
        return self.pipeline.observers

    async def load(self) -> Loading:
        """Read all files again; requests wait meanwhile. What is wrong is in the result: nothing is raised."""
        self._usable.clear()
        try:
            loading = await self._load()
        except DevError as error:
            loading = Loading(problems=(_problem_of_file(error),))
        finally:
            self._usable.set()
        self.loading = loading
        self.pipeline.apis = loading.apis
        for notify in self.on_load:
            notify(loading)
        return loading

    async def handle(self, request: GatewayRequest) -> Trace:
        """Answer a request."""
        await self._usable.wait()
        problems = self.loading.problems
        if not problems or find_api(self.pipeline.apis, request.path) is not None:
            return await self.pipeline.run(request)
        response = self.pipeline.templates.response(Refused(500, MIDDLEWARE_ERROR), request)
        trace = Trace(self.pipeline.next_number(), request.copy(), response=response, error=problems[0].message)
        self.pipeline.report(trace)
        return trace

    def trace(self, number: int) -> Trace | None:
        """Return one of the last requests."""
        return next((trace for trace in self.traces if trace.number == number), None)

    async def close(self) -> None:
        """End everything that runs."""
        await self.pipeline.close()
        await self._hooks.close()

    async def _load(self) -> Loading:
        sources = self._sources
        problems: list[Problem] = []
        if self._given_keys is None:
            self._read_keys()
        self.pipeline.templates = ErrorTemplates.read(sources.templates) if sources.templates else ErrorTemplates()
        files = BundleFiles(sources.bundle) if sources.bundle is not None else None
        apis = tuple(_read_apis(sources.apis, files, problems))
        name, only = files.only() if files is not None and not sources.apis else ("", None)
        loaded = await self._hooks.reload()
        if not sources.apis:
            hooks = [hook for bundle in loaded.bundles for hook in bundle["hooks"]]
            is_known = only is not None or not loaded.problems
            apis = (default_api(name, only or middleware_of_hooks(hooks)),) if is_known else ()
        served = (with_decorated_hooks(api, loaded.bundles) for api in apis)
        apis = tuple(api for api in served if api is not None)
        warnings = list(_warnings(apis))
        if apis and not sources.apis:
            warnings += _never_called(apis[0], loaded)
        return Loading(apis, loaded, (*problems, *loaded.problems), tuple(warnings))

    def _read_keys(self) -> None:
        """Read keys and policies; sessions that auth hooks have stored stay."""
        keys = self.pipeline.keys
        if self._sources.policies is not None:
            keys.policies = read_policies(self._sources.policies)
        if self._sources.keys is not None:
            read_keys(self._sources.keys, keys)

    def _remember(self, trace: Trace) -> None:
        if self.trace(trace.number) is None:
            self.traces.append(trace)
            sizes = [trace.size for trace in self.traces]
            while sum(sizes) > KEPT_BYTES and len(sizes) > 1:
                self.traces.popleft()
                del sizes[0]


def _read_apis(paths: tuple[Path, ...], files: BundleFiles | None, problems: list[Problem]) -> Iterator[Api]:
    """Yield the APIs that can be read; add to `problems` what is wrong with the others."""
    seen: dict[str, Api] = {}
    for path in definition_files(paths):
        try:
            api = with_bundle(read_api(path), files)
            check_unique(api, seen)
            yield api
        except DevError as error:
            problems.append(_problem_of_file(error))


def _warnings(apis: tuple[Api, ...]) -> list[str]:
    found = []
    for api in apis:
        place = f"{api.file or api.title}: "
        found += [f"{place}tykpy dev leaves out {what}" for what in api.left_out]
        middleware = api.middleware
        if middleware.auth_check is not None and not api.has_auth_hook:
            name = middleware.auth_check.name
            found.append(f"{place}{name} is never called: the API has no custom authentication (enable_coprocess_auth)")
        if middleware.post_key_auth and api.is_keyless:
            names = ", ".join(hook.name for hook in middleware.post_key_auth)
            found.append(f"{place}PostKeyAuth hooks are never called, because the API is keyless: {names}")
        if not middleware.count:
            found.append(f"{place}no hook is configured; {_where_hooks_come_from(api)}")
    return found


def _never_called(api: Api, loaded: LoadedBundles) -> Iterator[str]:
    """Say which hooks of the only bundle the gateway never calls, because nothing says when."""
    is_file = api.bundle.endswith(".py")
    why = "its decorator does not say when" if is_file else "manifest.json does not list it"
    for hook in (hook for bundle in loaded.bundles for hook in bundle["hooks"]):
        is_called = hook["hook_type"] if is_file else hook["listed"] or hook["hook_type"] in api.middleware.chained
        if not is_called and hook["hook_type"] != _EVENT:
            yield f"{api.title}: {hook['name']} is never called: {why}"


def _where_hooks_come_from(api: Api) -> str:
    if api.bundle.endswith(".py"):
        return "decorate a function of the file, e.g. with @Pre"
    if api.bundle and api.uses_bundle:
        return "list them in custom_middleware of the bundle's manifest.json"
    return "name a bundle in the API definition, or list hooks in its custom_middleware"


def _problem_of_file(error: DevError) -> Problem:
    if not isinstance(error, DefinitionError):
        return Problem(LOAD_FAILED, str(error))
    source: tuple[tuple[int, str], ...] = ()
    if error.line:
        try:
            lines = Path(error.file).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        first = max(error.line - AROUND, 1)
        source = tuple(enumerate(lines[first - 1 : error.line + AROUND], first))
    frame = SourceFrame(error.file, error.line, "", source, is_plugin=True)
    return Problem(LOAD_FAILED, str(error), frames=(frame,), file=error.file, line=error.line)
