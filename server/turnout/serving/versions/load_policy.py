"""Decides which versions should be loaded, and what to load and unload. Pure.

A decision is a function of a snapshot: which versions exist, what is declared, configured and requested, and what is
loaded now. Two rules apply to every `load` setting; with `on_demand`, requests decide about the remaining versions
(`on_demand`):

- Make before break: a version that answers now is unloaded only once its replacement is Ready. A failed load replaces
  nothing.
- A publish unloads nothing: `latest:N` counts released versions, and newer candidates are loaded in addition.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from semver import Version

from turnout.config import Load, LoadAll, LoadLatest, LoadOnDemand
from turnout.registry.manifest.versions import highest_first
from turnout.serving.versions.hold import Hold
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ModelReleaseState, ReleaseState, ReleaseStatus

Resolve = Callable[[str, Sequence[Version], ModelReleaseState], Version | None]
"""Returns the version that a selector names among the existing ones, or None. Implemented in
`turnout.routing.selection.selector`.
"""

_ON_ITS_WAY = (LifecycleState.NEW, LifecycleState.UNLOADED, LifecycleState.LOADING, LifecycleState.WARMING)


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """The versions of one model that may have to answer next, kept loaded so that a switch needs no load.

    Attributes:
        needed: Versions to load for this purpose: under a policy, the target of a rollback.
        spare: Versions to keep if they are loaded: without a policy, the target of a rollback. `kept_below` adds the
            version that would answer without the highest release.
        nearest: The target of a rollback that comes first; None if no other version answered before.
    """

    needed: Collection[Version] = ()
    spare: Collection[Version] = ()
    nearest: Version | None = None


@dataclass(frozen=True, slots=True)
class VersionDemand:
    """Callbacks that determine which versions should be loaded, besides the settings and operators.

    Attributes:
        release_state: Reads the declared release state from the state store.
        resolve: Resolves a selector of the `load` setting.
        pinned_versions: Returns the versions of a model that must stay loaded, and what holds them.
        fallbacks: Returns the versions of a model that may have to answer next.
    """

    release_state: Callable[[], Awaitable[ReleaseState]]
    resolve: Resolve
    pinned_versions: Callable[[str], Mapping[Version, Hold]]
    fallbacks: Callable[[str], Fallbacks]


@dataclass(frozen=True, slots=True)
class DesiredServing:
    """What should be loaded of one model.

    Attributes:
        asked: Requests of operators for single versions since the server started: True to load, False to unload. They
            take precedence over `load`.
        yanked: Whether yanked versions are kept as if they were not yanked, for pins to them; they do not displace
            others.
        fallbacks: Versions that may have to answer next.
    """

    load: Load
    asked: Mapping[Version, bool]
    yanked: bool = False
    fallbacks: Fallbacks = Fallbacks()


@dataclass(frozen=True, slots=True)
class CurrentServing:
    """How a model is served now.

    Attributes:
        states: States of its versions; versions not listed are New.
        tags: Version that each tag resolves to; not yet the declared one while that is loading.
    """

    states: Mapping[Version, LifecycleState] = field(default_factory=dict)
    tags: Mapping[str, Version] = field(default_factory=dict)

    def ready(self, version: Version) -> bool:
        """Returns whether `version` can answer."""
        return self.states.get(version) is LifecycleState.READY

    def failed(self, version: Version) -> bool:
        """Returns whether `version` could not be loaded."""
        return self.states.get(version) is LifecycleState.FAILED


@dataclass(frozen=True, slots=True)
class Moves:
    """What to load and unload of one model now."""

    load: tuple[Version, ...] = ()
    unload: tuple[Version, ...] = ()


def wanted(
    desired: DesiredServing,
    versions: Sequence[Version],
    model_releases: ModelReleaseState,
    resolve: Resolve,
    loaded: CurrentServing | None = None,
) -> set[Version]:
    """Returns the versions that should be loaded regardless of requests.

    A yanked version is loaded only if an operator asks for it or `desired.yanked` is set; a pruned version never is.
    """
    now = loaded or CurrentServing()
    there = [v for v in versions if v not in model_releases.pruned]
    eligible = [v for v in there if model_releases.release_status(v) is not ReleaseStatus.YANKED]
    chosen = _configured(desired.load, eligible, model_releases, resolve, now)
    if desired.yanked:
        chosen |= _configured(desired.load, there, model_releases, resolve, now)
    chosen |= {v for v in desired.fallbacks.needed if v in eligible}
    chosen |= {v for v in desired.fallbacks.spare if v in eligible and now.ready(v)}
    for version, asked in desired.asked.items():
        if version in there:
            (chosen.add if asked else chosen.discard)(version)
    return chosen


def kept_below(fallbacks: Fallbacks, model_releases: ModelReleaseState) -> Fallbacks:
    """Adds the version below the default to the fallbacks, unless a policy determines the target of a rollback.

    It is determined here rather than by the code that follows the traffic, which may not know the latest release yet.
    The version below that release would then be unloaded, and if the release was yanked, no version could answer until
    another was loaded.
    """
    if fallbacks.needed:
        return fallbacks
    released = [v for v, status in model_releases.release_statuses.items() if status is ReleaseStatus.RELEASED]
    return replace(fallbacks, spare={*fallbacks.spare, *_releases(released, model_releases)[1:2]})


def on_demand(
    desired: DesiredServing, versions: Sequence[Version], model_releases: ModelReleaseState, needed: Set[Version]
) -> set[Version]:
    """Returns the versions that are loaded on demand: none, unless the `load` setting says so.

    A version that an operator unloaded stays unloaded until an operator loads it. Yanked versions are included only if
    pins to them are answered, and those that are `needed` anyway are not.
    """
    if not isinstance(desired.load, LoadOnDemand):
        return set()
    refused = (
        {version for version, asked in desired.asked.items() if not asked} | set(needed) | set(model_releases.pruned)
    )
    return {
        version
        for version in versions
        if version not in refused
        and (desired.yanked or model_releases.release_status(version) is not ReleaseStatus.YANKED)
    }


def awaited(desired: DesiredServing, optional: Set[Version]) -> set[Version]:
    """Returns the versions for whose load requests wait.

    These are the versions that are loaded on demand, also after an operator asked for them: otherwise requests that
    waited before would be refused, and ranges would name other versions, until they are in memory.
    """
    asked = {version for version, load in desired.asked.items() if load}
    return {*optional, *asked} if isinstance(desired.load, LoadOnDemand) else set(optional)


def _configured(
    load: Load, versions: Sequence[Version], model_releases: ModelReleaseState, resolve: Resolve, loaded: CurrentServing
) -> set[Version]:
    if isinstance(load, LoadAll):
        return set(versions)
    if isinstance(load, LoadLatest):
        newer = _newer_candidates(load.count, versions, model_releases, loaded)
        return _latest(load.count, versions, model_releases, loaded) | newer
    if isinstance(load, LoadOnDemand):
        return _latest(1, versions, model_releases, loaded)
    answering = replace(model_releases, tags=loaded.tags)
    sound = [v for v in versions if not loaded.failed(v)]
    ready = [v for v in versions if loaded.ready(v)]
    chosen: set[Version | None] = set()
    for selector in load.selectors:
        chosen.add(resolve(selector, versions, model_releases))
        chosen.add(resolve(selector, sound, model_releases))  # a failed version does not displace another
        chosen.add(resolve(selector, ready, answering))  # answers until the others can
    return {version for version in chosen if version is not None}


def _latest(
    count: int, versions: Sequence[Version], model_releases: ModelReleaseState, loaded: CurrentServing
) -> set[Version]:
    """Returns the `count` latest releases, the versions that answer in their place until they are Ready, and versions
    with tags.
    """
    releases = _releases(versions, model_releases)
    sound = [v for v in releases if not loaded.failed(v)][:count]
    lowest = sound[-1] if sound else None
    chosen = {v for v in releases if lowest is None or v >= lowest}
    chosen.update([v for v in releases if loaded.ready(v)][:count])
    there = set(versions)
    chosen.update(v for v in model_releases.tags.values() if v in there)
    chosen.update(v for tag, v in loaded.tags.items() if tag in model_releases.tags and v in there and loaded.ready(v))
    return chosen


def _newer_candidates(
    count: int, versions: Sequence[Version], model_releases: ModelReleaseState, loaded: CurrentServing
) -> set[Version]:
    """Returns the versions newer than the latest release, and those that were until that release is Ready."""
    releases = _releases(versions, model_releases)
    sound = [v for v in releases if not loaded.failed(v)][:count]
    newest = (sound or releases)[0] if releases else None
    answering = next(filter(loaded.ready, releases), None)
    chosen = set()
    for version in versions:
        if newest is None or version > newest:
            chosen.add(version)
        elif loaded.ready(version) and (answering is None or version > answering):
            chosen.add(version)  # a release unloads the candidates below it only once it is Ready
    return chosen


def _releases(versions: Sequence[Version], model_releases: ModelReleaseState) -> list[Version]:
    """Returns the released versions that are not prereleases, highest first."""
    return list(
        highest_first(
            v
            for v in versions
            if model_releases.release_status(v) is not ReleaseStatus.CANDIDATE and v.prerelease is None
        )
    )


def tags_in_force(
    declared: Mapping[str, Version], loaded: CurrentServing, coming: Collection[Version]
) -> dict[str, Version]:
    """Returns the version that each tag resolves to.

    A moved tag keeps resolving to its previous version until the new one is Ready, so that moving a tag to a version
    that has to be loaded first does not fail requests. `coming` are the versions that should be loaded.
    """
    return {
        tag: before if _stands_in(before := loaded.tags.get(tag, target), target, loaded, coming) else target
        for tag, target in declared.items()
    }


def _stands_in(before: Version, target: Version, loaded: CurrentServing, coming: Collection[Version]) -> bool:
    if before == target or not loaded.ready(before) or target not in coming:
        return False
    return loaded.failed(target) or loaded.states.get(target, LifecycleState.NEW) in _ON_ITS_WAY


def moves(wanted: set[Version], states: Mapping[Version, LifecycleState]) -> Moves:
    """Returns what to load and what to unload, highest version first.

    Versions that are loading or unloading are left alone. A failed load is not retried, since the bytes cannot change.
    """
    loadable = {LifecycleState.NEW, LifecycleState.UNLOADED}
    return Moves(
        load=tuple(highest_first(v for v, state in states.items() if state in loadable and v in wanted)),
        unload=tuple(
            highest_first(v for v, state in states.items() if state is LifecycleState.READY and v not in wanted)
        ),
    )
