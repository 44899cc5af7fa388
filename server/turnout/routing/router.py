"""Routes requests by resolving the selector and applying the model's policy. Results are cached until one changes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from semver import Version

from turnout.errors import (
    DigestMismatch,
    ModelNotFound,
    NotLoaded,
    TurnoutError,
    VersionNotFound,
    VersionOnDemand,
    VersionYanked,
)
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.policy import TWIN, Policy, eligible
from turnout.routing.selection.resolution import VersionIndex, resolve
from turnout.routing.selection.selector import ByDigest, ByTag, Exact, InRange, Selector, parse
from turnout.routing.slots import Owners
from turnout.routing.split import Cursor, Split
from turnout.serving.counting.keyed_outcomes import SlotFinder
from turnout.serving.data_plane.inference import Route, ServingRole
from turnout.serving.versions.catalog import Catalog, CatalogSnapshot, Damaged, ModelEntry, VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.load_outcomes import load_failure
from turnout.state.release_status import ReleaseStatus

MAX_ROUTES = 4096
"""Maximum number of cached routes. It is bounded because selectors come from clients."""

_COMING = (LifecycleState.LOADING, LifecycleState.WARMING)
_READY = (LifecycleState.READY,)

RouteTarget = Route | Split
"""Where requests for one selector go: to one version, or to several by share."""


@dataclass(slots=True, eq=False)
class _Resolutions:
    """The results cached for one catalog and one set of policies.

    When these change, results for unchanged models are kept.

    Attributes:
        snapshot, current: The catalog and policies that the results are for.
        ways: Targets by model and selector as written. Only successes are cached.
        named: Version that a selector names, or the error if there is none, by model, selector as written, and whether
            versions that are ready are preferred.
        indexes: By model, the model entry and the withdrawn versions that the index was made for, and the index. Also
            kept for models that changed.
    """

    snapshot: CatalogSnapshot
    policies: Policies
    current: Mapping[str, AppliedPolicy]
    ways: dict[tuple[str, str], RouteTarget] = field(default_factory=dict)
    named: dict[tuple[str, str, bool], Version | VersionNotFound] = field(default_factory=dict)
    indexes: dict[str, tuple[ModelEntry, frozenset[Version], VersionIndex]] = field(default_factory=dict)

    def follow(self, snapshot: CatalogSnapshot) -> "_Resolutions":
        """Returns the results for a new catalog or new policies, without those that may have changed."""
        if self.policies.current is not self.current:
            return _Resolutions(snapshot, self.policies, self.policies.current, indexes=self.indexes)
        before = self.snapshot.models
        same = {name for name, model in snapshot.models.items() if before.get(name) is model}
        return _Resolutions(
            snapshot,
            self.policies,
            self.current,
            {key: target for key, target in self.ways.items() if key[0] in same},
            {key: version for key, version in self.named.items() if key[0] in same},
            {name: index for name, index in self.indexes.items() if name in snapshot.models},
        )

    def entry(self, model: str, selector: Selector, *, prefer_ready: bool) -> VersionEntry:
        """Returns the version that the selector names. Raises as `Router.describe`."""
        try:
            return self._entry(model, selector, prefer_ready=prefer_ready)
        except (ModelNotFound, VersionNotFound) as error:
            if fault := _damage(self.snapshot.damaged.get(model), selector):
                raise DigestMismatch(fault) from error
            raise

    def is_diverted(self, known: ModelEntry) -> bool:
        """Returns whether an unrecorded rollback is in effect, which requires that its target can answer."""
        to = self.policies.diverted.get(known.name)
        entry = known.versions.get(to) if to is not None else None
        return entry is not None and entry.ready

    def policy(self, known: ModelEntry) -> Policy | None:
        """Returns the policy that decides, which is the target of an unrecorded rollback if one is in effect."""
        if self.is_diverted(known):
            return Policy(self.policies.diverted[known.name])
        return self.policies.of(known.name).policy

    def _entry(self, model: str, selector: Selector, *, prefer_ready: bool) -> VersionEntry:
        known = self.snapshot.model(model)
        policy = self.policy(known)
        if policy is not None and eligible(selector, policy) is not None:
            return _baseline(known, policy)
        return known.versions[self._resolve(known, selector, prefer_ready=prefer_ready)]

    def _resolve(self, known: ModelEntry, selector: Selector, *, prefer_ready: bool) -> Version:
        """Resolves each selector once, since a range has to be compared with every version that might satisfy it."""
        key = known.name, str(selector), prefer_ready
        found = self.named.get(key)
        if found is None:
            try:
                found = resolve(selector, self._index(known), prefer_ready=prefer_ready)
            except VersionNotFound as error:
                found = VersionNotFound(error.message)
            if len(self.named) >= MAX_ROUTES:
                self.named.clear()
            self.named[key] = found
        if isinstance(found, VersionNotFound):
            raise VersionNotFound(found.message)  # a new one each time, since raising adds a traceback
        return found

    def _index(self, known: ModelEntry) -> VersionIndex:
        withdrawn = self.policies.withdrawn[known.name] if self.is_diverted(known) else frozenset()
        before, without, index = self.indexes.get(known.name, (None, withdrawn, None))
        if index is None or before is None or before.layout is not known.layout or without != withdrawn:
            index = _index(known, withdrawn)
        elif before is not known:
            index = replace(
                index, ready=_in_state(known, _READY), coming=_in_state(known, _COMING), available=_available(known)
            )
        self.indexes[known.name] = known, withdrawn, index
        return index


class PolicyRouter:
    """Routes by the policies in force and the catalog; implements `turnout.serving.data_plane.inference.Router`.

    Each call uses one consistent state: one catalog and one epoch. A cached route costs one look-up, and a choice among
    canaries one more. The first request for a selector after a change computes its route again.
    """

    def __init__(self, catalog: Catalog, policies: Policies, *, serve_yanked: bool = False) -> None:
        """Creates a router. With `serve_yanked`, pins to yanked versions are answered with a warning, not refused."""
        self._serve_yanked = serve_yanked
        self._catalog = catalog
        self._policies = policies
        self._resolutions = _Resolutions(catalog.snapshot, policies, policies.current)
        self._cursors: dict[tuple[str, str], Cursor] = {}

    def route(self, model: str, selector: str, routing_key: str = "", *, baseline_only: bool = False) -> Route:
        """Returns the route of a request, and counts the request for the split of traffic.

        Args:
            model: The model's name, as the client wrote it.
            selector: The version selector, as the client wrote it.
            routing_key: Requests with the same key get the same version while the weights allow it; "" for none.
            baseline_only: Whether no canary may answer.

        Raises:
            InvalidSelector: The selector cannot be parsed.
            ModelNotFound, VersionNotFound: No model or version has this name.
            NotLoaded, UnavailableError, MemoryBudgetExceeded: The version is known but cannot answer now.
            VersionOnDemand: The version can answer once it is loaded, and is loaded on demand.
            VersionYanked: The version was yanked, and pins to yanked versions are refused.
            DigestMismatch: The version was changed on disk since its publication.
        """
        resolutions = self._resolutions
        if resolutions.snapshot is not self._catalog.snapshot or resolutions.current is not self._policies.current:
            resolutions = self._current()
        target = resolutions.ways.get((model, selector))
        if target is None:
            target = self._find(resolutions, model, selector)
        if target.__class__ is Route:
            return target
        assert isinstance(target, Split)
        return target.choose(routing_key, baseline_only=baseline_only)

    def target(self, model: str, selector: str) -> RouteTarget:
        """Returns where requests for a selector go, without routing one. Raises as `route`."""
        resolutions = self._current()
        target = resolutions.ways.get((model, selector))
        return self._find(resolutions, model, selector) if target is None else target

    def describe(self, model: str, selector: str) -> VersionEntry:
        """Returns the version that the selector names, in any state. A range names its highest version, ready or not.

        Raises:
            InvalidSelector: The selector cannot be parsed.
            ModelNotFound, VersionNotFound: No model or version has this name.
        """
        resolutions = self._current()
        return resolutions.entry(model, parse(selector), prefer_ready=False)

    def _current(self) -> _Resolutions:
        resolutions, snapshot = self._resolutions, self._catalog.snapshot
        if resolutions.snapshot is not snapshot or resolutions.current is not self._policies.current:
            resolutions = self._resolutions = resolutions.follow(snapshot)
        return resolutions

    def _find(self, resolutions: _Resolutions, model: str, selector: str) -> RouteTarget:
        parsed = parse(selector)
        try:
            entry = resolutions.entry(model, parsed, prefer_ready=True)
        except NotLoaded:  # the baseline was published a moment ago
            if (stand_in := _stand_in(resolutions, model, parsed)) is not None:
                return stand_in
            raise
        warning = ""
        if entry.release_status is ReleaseStatus.YANKED and isinstance(parsed, Exact | ByDigest | ByTag):
            warning = _yanked(entry, resolutions.snapshot.model(model))
            if not self._serve_yanked:
                raise VersionYanked(f"{warning}; pins to it are refused")
        if not entry.ready:
            stand_in = _stand_in(resolutions, model, parsed)
            if stand_in is None:
                raise _refusal(entry)
            return stand_in
        if len(resolutions.ways) >= MAX_ROUTES:
            resolutions.ways.clear()
        known, applied = resolutions.snapshot.model(model), self._policies.of(model)
        policy, epoch, finder = resolutions.policy(known), applied.epoch, applied.owners.finder
        target: RouteTarget
        if policy is None or (canaries := eligible(parsed, policy)) is None:
            target = _unsplit(entry, selector, epoch, warning, finder)
        elif resolutions.is_diverted(known):
            target = Route.to(entry, ServingRole.BASELINE, epoch, slots=finder)
        else:
            baseline = Route.to(entry, ServingRole.BASELINE, epoch, applied.observer, slots=finder)
            able = {str(v): e for v in canaries if (e := known.versions.get(v)) and e.ready}
            target = self._split(applied, baseline, able, (model, selector))
        if isinstance(target, Route) and target.role is ServingRole.BASELINE and model in self._policies.meters:
            target = self._metered(self._policies.meters[model], target, (model, selector))
        resolutions.ways[model, selector] = target
        return target

    def _split(
        self, applied: AppliedPolicy, baseline: Route, able: Mapping[str, VersionEntry], key: tuple[str, str]
    ) -> RouteTarget:
        """Returns the target of a selector that the policy decides on.

        Requests that no canary gets take the route `baseline`. `able` are the canaries that fit and can answer, by
        version.
        """
        names, finder = applied.owners.names, applied.owners.finder
        routes = [baseline]
        for name in names[1:]:
            if name in able:
                routes.append(Route.to(able[name], ServingRole.CANARY, applied.epoch, slots=finder))
            elif name == TWIN:
                observer = applied.observer
                routes.append(
                    Route.to(baseline.entry, ServingRole.BASELINE, applied.epoch, observer, TWIN, slots=finder)
                )
            else:
                routes.append(baseline)
        if all(route is baseline for route in routes):
            return baseline
        cursor = self._cursor(key)
        return Split(applied.owners, routes, applied.tally if len(able) >= len({*names} - {"", TWIN}) else None, cursor)

    def _metered(self, owners: Owners, baseline: Route, key: tuple[str, str]) -> RouteTarget:
        """Returns the target of a selector that only the baseline answers, partly through the lanes of the meter."""
        lanes = [
            Route.to(baseline.entry, ServingRole.BASELINE, baseline.epoch, baseline.observer, name, slots=owners.finder)
            for name in owners.names[1:]
        ]
        return Split(owners, [baseline, *lanes], None, self._cursor(key))

    def _cursor(self, key: tuple[str, str]) -> Cursor:
        if len(self._cursors) >= MAX_ROUTES:
            self._cursors.clear()
        return self._cursors.setdefault(key, Cursor())


def _unsplit(entry: VersionEntry, selector: str, epoch: int, warning: str, finder: SlotFinder) -> Route:
    """Returns the route to a version that the selector names, or that answers because there is no policy."""
    if selector:
        return Route.to(entry, ServingRole.PINNED, epoch, warning=warning)
    return Route.to(entry, ServingRole.BASELINE, epoch, warning=warning, slots=finder)


def _damage(damaged: Damaged | None, selector: Selector) -> str:
    """Returns what is wrong with the version that the selector names; "" if it is not a damaged one."""
    if damaged is None:
        return ""
    match selector:
        case Exact(version=version):
            named: Version | None = version
        case ByTag(name=name):
            named = damaged.model_releases.tags.get(name)
        case ByDigest(digest=digest):
            named = next((v for v, known in damaged.model_releases.digests.items() if known == digest), None)
        case _:
            named = None
    return next((reason for version, reason in damaged.reasons.items() if version == named), "")


def _baseline(known: ModelEntry, policy: Policy) -> VersionEntry:
    entry = known.versions.get(policy.baseline)
    if entry is None:
        raise NotLoaded(f"{policy.baseline}, the baseline of {known.name}'s policy, is not in this server's repository")
    return entry


def _stand_in(resolutions: _Resolutions, model: str, selector: Selector) -> Route | None:
    """Returns the route to the version that answers until the policy's baseline is ready; None if there is none."""
    applied = resolutions.policies.of(model)
    if applied.policy is None or applied.stand_in is None or eligible(selector, applied.policy) is None:
        return None
    entry = resolutions.snapshot.model(model).versions.get(applied.stand_in)
    if entry is None or not entry.ready:
        return None
    if isinstance(selector, InRange) and not selector.range.satisfied_by(entry.version):
        return None
    return Route.to(entry, ServingRole.BASELINE, applied.epoch)


def _yanked(entry: VersionEntry, known: ModelEntry) -> str:
    reason = known.model_releases.reasons.get(entry.version)
    return f"{entry.model} {entry.version} was yanked{f' ({reason})' if reason else ''}"


def _index(entry: ModelEntry, withdrawn: Collection[Version]) -> VersionIndex:
    versions, stated = entry.versions, entry.model_releases.digests
    return VersionIndex.of(
        entry.name,
        {v: ReleaseStatus.CANDIDATE if v in withdrawn else known.release_status for v, known in versions.items()},
        tags=entry.model_releases.tags,
        # A version with a changed manifest keeps the digest that it was published with: it is the damaged one.
        digests={stated.get(version, known.digest): version for version, known in versions.items()},
        ready=_in_state(entry, _READY),
        coming=_in_state(entry, _COMING),
        available=_available(entry),
    )


def _in_state(entry: ModelEntry, states: Collection[LifecycleState]) -> frozenset[Version]:
    return frozenset(version for version, known in entry.versions.items() if known.state in states)


def _available(entry: ModelEntry) -> frozenset[Version]:
    """Returns the versions that answer now, or are loaded on demand."""
    return _in_state(entry, _READY) | {
        version
        for version, known in entry.versions.items()
        if known.awaited and known.state is not LifecycleState.FAILED
    }


def _refusal(entry: VersionEntry) -> TurnoutError:
    """Returns the error that says why the version cannot answer, or that it can once it is loaded."""
    if entry.awaited and entry.state is not LifecycleState.FAILED:
        return VersionOnDemand.of(entry.model, entry.version)
    return load_failure(entry)
