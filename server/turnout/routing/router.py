"""Who answers a request: the selector's resolution, remembered for as long as nothing changes."""

from dataclasses import dataclass, field

from turnout.errors import DigestMismatch, NotLoaded, TurnoutError, VersionLoading
from turnout.routing.resolution import VersionIndex, resolve
from turnout.routing.selector import parse
from turnout.serving.catalog import Catalog, CatalogSnapshot, ModelEntry, VersionEntry
from turnout.serving.inference import Role, Route
from turnout.serving.lifecycle import LifecycleState

MAX_ROUTES = 4096
"""Routes that are remembered. Selectors come from clients, so that their number needs a bound."""

LOADING_RETRY_SECONDS = 1.0
"""When to ask again for a version that is loading: loads take from 0.4 seconds to some minutes."""

_COMING = (LifecycleState.LOADING, LifecycleState.WARMING)


@dataclass(slots=True, eq=False)
class _Resolutions:
    """What was worked out about one snapshot so far; it goes when the snapshot does.

    Attributes:
        snapshot: That it holds for.
        routes: By model and selector, as written; successes only.
        indexes: By model.
    """

    snapshot: CatalogSnapshot
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    indexes: dict[str, VersionIndex] = field(default_factory=dict)

    def find(self, model: str, selector: str, *, prefer_ready: bool) -> VersionEntry:
        """Returns the version that the selector names. Raises as `Router.describe`."""
        entry = self.snapshot.model(model)
        index = self.indexes.get(model)
        if index is None:
            index = self.indexes[model] = _index(entry)
        return entry.versions[resolve(parse(selector), index, prefer_ready=prefer_ready)]


class CatalogRouter:
    """Routes by what the catalog holds; implements `turnout.serving.inference.Router`.

    Each call reads the catalog once and so sees one state of the world. A known route costs one look-up; the first
    request for a selector after a change works its route out again. The empty selector plays the baseline's role, every
    other one pins.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._resolutions = _Resolutions(catalog.snapshot)

    def route(self, model: str, selector: str, routing_key: str) -> Route:
        """Returns the route of a request.

        Args:
            model: The model's name, as the client wrote it.
            selector: The version selector, as the client wrote it.
            routing_key: Keeps a client with one version while traffic is split; one version has it all here.

        Raises:
            InvalidSelector: The selector does not parse.
            ModelNotFound, VersionNotFound: It parses and nothing answers it.
            NotLoaded, VersionLoading: What it names is known but cannot answer now.
            DigestMismatch: What it names was changed on disk since its publication.
        """
        resolutions = self._resolutions
        if resolutions.snapshot is not self._catalog.snapshot:
            resolutions = self._start_over()
        route = resolutions.routes.get((model, selector))
        if route is not None:
            return route
        entry = resolutions.find(model, selector, prefer_ready=True)
        if entry.state is not LifecycleState.READY:
            raise _refusal(entry)
        if len(resolutions.routes) >= MAX_ROUTES:
            resolutions.routes.clear()
        route = Route(entry, Role.PINNED if selector else Role.BASELINE)
        resolutions.routes[model, selector] = route
        return route

    def describe(self, model: str, selector: str) -> VersionEntry:
        """Returns the version that the selector names, whatever its state; a range names its highest, ready or not.

        Raises:
            InvalidSelector: The selector does not parse.
            ModelNotFound, VersionNotFound: It parses and nothing answers it.
        """
        resolutions = self._resolutions
        if resolutions.snapshot is not self._catalog.snapshot:
            resolutions = self._start_over()
        return resolutions.find(model, selector, prefer_ready=False)

    def _start_over(self) -> _Resolutions:
        resolutions = self._resolutions = _Resolutions(self._catalog.snapshot)
        return resolutions


def _index(entry: ModelEntry) -> VersionIndex:
    versions = entry.versions
    return VersionIndex.of(
        entry.name,
        {version: known.standing for version, known in versions.items()},
        tags=entry.declarations.tags,
        digests={known.digest: version for version, known in versions.items()},
        ready=[version for version, known in versions.items() if known.state is LifecycleState.READY],
        coming=[version for version, known in versions.items() if known.state in _COMING],
    )


def _refusal(entry: VersionEntry) -> TurnoutError:
    """Makes the error that says why the version cannot answer: a new one each time, since raising one adds to it."""
    name = f"{entry.model} {entry.version}"
    if entry.state in _COMING:
        return VersionLoading(f"{name} is {entry.state}", retry_after=LOADING_RETRY_SECONDS)
    if isinstance(entry.failure, DigestMismatch):
        return type(entry.failure)(entry.failure.message, violations=entry.failure.violations)
    if entry.state is LifecycleState.FAILED:
        return NotLoaded(f"{name} could not be loaded: {entry.reason or 'no reason is known'}")
    why = {
        LifecycleState.NEW: "is published but not loaded",
        LifecycleState.DRAINING: "is being unloaded",
        LifecycleState.UNLOADED: "was unloaded",
    }[entry.state]
    return NotLoaded(f"{name} {why}{': ' + entry.reason if entry.reason else ''}")
