"""Which versions should be loaded, and what to do about it. Pure.

A decision is a function of a snapshot: what exists, what was declared and configured and asked for, what is loaded now.
Two rules hold whatever the `load` setting is; with `on_demand`, requests decide of the other versions (`on_demand`):

- Make before break: what answers now is unloaded only once what replaces it is Ready; a load that fails replaces
  nothing.
- A publish unloads nothing: `latest:N` counts released versions, and newer candidates are loaded beside them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from semver import Version

from turnout.config import Load, LoadAll, LoadLatest, LoadOnDemand
from turnout.registry.manifest.versions import highest_first
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ModelReleaseState, ReleaseStatus

Resolve = Callable[[str, Sequence[Version], ModelReleaseState], Version | None]
"""Returns the version that a selector names among those that exist, or None; `turnout.routing.selection.selector` has
it.
"""

_ON_ITS_WAY = (LifecycleState.NEW, LifecycleState.UNLOADED, LifecycleState.LOADING, LifecycleState.WARMING)


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """The versions of one model that may have to answer next, so that it is a swap and no load.

    Attributes:
        needed: Are loaded for it: under a policy, what a rollback would go back to.
        spare: Stay loaded if they are: without a policy, that. `kept_below` adds what would answer if the highest
            release went.
        nearest: What a rollback would go back to, first of all; None: nothing answered before.
    """

    needed: Collection[Version] = ()
    spare: Collection[Version] = ()
    nearest: Version | None = None


@dataclass(frozen=True, slots=True)
class DesiredServing:
    """What should be loaded of one model.

    Attributes:
        load: As configured.
        asked: What operators asked of single versions since the server started: True to load, False to unload. It goes
            before `load`.
        yanked: Yanked versions are kept where they would be if they were not, for pins to them; they take no other's
            place.
        fallbacks: What may have to answer next.
    """

    load: Load
    asked: Mapping[Version, bool]
    yanked: bool = False
    fallbacks: Fallbacks = Fallbacks()


@dataclass(frozen=True, slots=True)
class CurrentServing:
    """How a model is served now.

    Attributes:
        states: Of its versions; a version not named is New.
        tags: The version that each tag is answered with, which is not yet the declared one while that one loads.
    """

    states: Mapping[Version, LifecycleState] = field(default_factory=dict)
    tags: Mapping[str, Version] = field(default_factory=dict)

    def ready(self, version: Version) -> bool:
        """Tells whether `version` can answer."""
        return self.states.get(version) is LifecycleState.READY

    def failed(self, version: Version) -> bool:
        """Tells whether `version` could not be loaded."""
        return self.states.get(version) is LifecycleState.FAILED


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do about one model now."""

    load: tuple[Version, ...] = ()
    unload: tuple[Version, ...] = ()


def wanted(
    desired: DesiredServing,
    versions: Sequence[Version],
    model_releases: ModelReleaseState,
    resolve: Resolve,
    loaded: CurrentServing | None = None,
) -> set[Version]:
    """Returns the versions that should be loaded, whatever requests ask for.

    Args:
        desired: What is configured and was asked for.
        versions: That exist.
        model_releases: Release status and tags; a yanked version is loaded only if an operator asks for it, or if
            they are wanted. A pruned one never is.
        resolve: Finds what a selector of the configuration names.
        loaded: How the model is served now; nothing is, where it is left out.
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
    """Returns fallbacks that hold the version below the default too, unless a policy says what a rollback goes back to.

    It is found here, and not with the others by what follows the traffic: that may not know of the latest release yet,
    which would unload the version below it, and a yank of that release would leave nobody to answer during a load.

    Args:
        fallbacks: As they were found last.
        model_releases: Release statuses of the model's versions.
    """
    if fallbacks.needed:
        return fallbacks
    released = [v for v, status in model_releases.release_statuses.items() if status is ReleaseStatus.RELEASED]
    return replace(fallbacks, spare={*fallbacks.spare, *_releases(released, model_releases)[1:2]})


def on_demand(
    desired: DesiredServing, versions: Sequence[Version], model_releases: ModelReleaseState, needed: Set[Version]
) -> set[Version]:
    """Returns the versions that requests may have loaded: none, unless `load` says so.

    Args:
        desired: What is configured and was asked for: what an operator unloaded stays out until one loads it.
        versions: That exist.
        model_releases: Release status; a yanked version comes only if pins to such are answered.
        needed: What should be loaded anyway.
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
        chosen.add(resolve(selector, sound, model_releases))  # a failed load takes nobody's place
        chosen.add(resolve(selector, ready, answering))  # what answers until the others can
    return {version for version in chosen if version is not None}


def _latest(
    count: int, versions: Sequence[Version], model_releases: ModelReleaseState, loaded: CurrentServing
) -> set[Version]:
    """Returns the `count` latest releases, what answers in their place until they are Ready, and what tags name."""
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
    """Returns what is newer than the latest release, and what was until that release is Ready."""
    releases = _releases(versions, model_releases)
    sound = [v for v in releases if not loaded.failed(v)][:count]
    newest = (sound or releases)[0] if releases else None
    answering = next(filter(loaded.ready, releases), None)
    chosen = set()
    for version in versions:
        if newest is None or version > newest:
            chosen.add(version)
        elif loaded.ready(version) and (answering is None or version > answering):
            chosen.add(version)  # a release unloads the candidates below it once it is Ready
    return chosen


def _releases(versions: Sequence[Version], model_releases: ModelReleaseState) -> list[Version]:
    """Returns what is released and no prerelease, the highest first."""
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
    """Returns the version that each tag is answered with.

    A tag that moved goes on answering with the version it named before until the new one is Ready: to move a tag to a
    version that still has to be loaded fails no request.

    Args:
        declared: Where the tags stand.
        loaded: How the model is served now, by the tags as they were.
        coming: The versions that should be loaded.
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
    """Returns what to load and what to unload, the highest version first.

    A version that is on its way somewhere is left alone until it is there. A failed load is not tried again by itself:
    the bytes that failed cannot change.
    """
    loadable = {LifecycleState.NEW, LifecycleState.UNLOADED}
    return Moves(
        load=tuple(highest_first(v for v, state in states.items() if state in loadable and v in wanted)),
        unload=tuple(
            highest_first(v for v, state in states.items() if state is LifecycleState.READY and v not in wanted)
        ),
    )
