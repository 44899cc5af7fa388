"""Resolves a selector to one of the versions that exist. Pure."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Self

from semver import Version

from turnout.errors import VersionNotFound
from turnout.registry.manifest.versions import precedence
from turnout.routing.selection.selector import ByDigest, ByTag, Default, Exact, InRange, Latest, Selector, parse
from turnout.state.release_status import ModelReleaseState, ReleaseStatus


@dataclass(frozen=True, slots=True)
class VersionIndex:
    """One model's versions, laid out for `resolve`.

    Attributes:
        versions: All versions, highest precedence first. No two have the same precedence.
        released: Released versions, in the same order.
        candidates: Candidates, in the same order.
        yanked: Yanked versions, in the same order.
        ready: Versions that can answer now.
        coming: Versions that are being loaded or warmed up.
        available: Versions that are ready, or are loaded on demand.
    """

    model: str
    versions: tuple[Version, ...]
    released: tuple[Version, ...]
    candidates: tuple[Version, ...]
    yanked: tuple[Version, ...]
    tags: Mapping[str, Version]
    digests: Mapping[str, Version]
    ready: frozenset[Version]
    coming: frozenset[Version]
    available: frozenset[Version]

    @classmethod
    def of(
        cls,
        model: str,
        release_statuses: Mapping[Version, ReleaseStatus],
        *,
        tags: Mapping[str, Version] | None = None,
        digests: Mapping[str, Version] | None = None,
        ready: Collection[Version] = (),
        coming: Collection[Version] = (),
        available: Collection[Version] | None = None,
    ) -> Self:
        """Creates the index of the versions in `release_statuses`, which can be in any order."""
        versions = tuple(sorted(release_statuses, key=precedence, reverse=True))
        return cls(
            model=model,
            versions=versions,
            released=tuple(v for v in versions if release_statuses[v] is ReleaseStatus.RELEASED),
            candidates=tuple(v for v in versions if release_statuses[v] is ReleaseStatus.CANDIDATE),
            yanked=tuple(v for v in versions if release_statuses[v] is ReleaseStatus.YANKED),
            tags=tags or {},
            digests=digests or {},
            ready=frozenset(ready),
            coming=frozenset(coming),
            available=frozenset(ready if available is None else available),
        )

    def find(self, version: Version) -> Version | None:
        """Returns the published version of the same precedence, with its own build metadata; None if there is none."""
        above = self._above(version)
        found = self.versions[above] if above < len(self.versions) else None
        return found if found is not None and precedence(found) == precedence(version) else None

    def around(self, version: Version) -> tuple[Version, ...]:
        """Returns the two nearest versions above `version` and the two nearest at or below it; fewer at the ends."""
        above = self._above(version)
        return self.versions[max(0, above - 2) : above + 2]

    def _above(self, version: Version) -> int:
        """Returns the number of versions that are higher."""
        return len(self.versions) - bisect_right(self.versions[::-1], precedence(version), key=precedence)


def resolve(selector: Selector, versions: VersionIndex, *, prefer_ready: bool = True) -> Version:
    """Returns the version that `selector` names.

    A pin, a digest and a tag name one version. A range, `latest` and the empty selector choose among released versions:
    the highest that is ready, so that a version that is still loading takes no traffic from the one below it; if none
    is ready, the highest that is being loaded; otherwise the highest. With `prefer_ready=False`, they choose the
    highest in any case. For a range, versions that are loaded on demand count as ready, so that its meaning does not
    depend on which versions happen to be in memory.

    Raises:
        VersionNotFound: No version fits. The error names the nearest.
    """
    match selector:
        case Default() | Latest():
            fits, ready = (lambda version: version.prerelease is None), versions.ready
            return _choose(selector, versions, fits, ready if prefer_ready else None)
        case InRange(range=wanted):
            return _choose(selector, versions, wanted.satisfied_by, versions.available if prefer_ready else None)
        case Exact(version=pinned):
            found = versions.find(pinned)
            if found is None or pinned.build not in (None, found.build):
                raise VersionNotFound(
                    f"no version of {versions.model} is {str(pinned)!r}; {_listed('nearest', versions.around(pinned))}"
                )
            return found
        case ByDigest(digest=digest):
            found = versions.digests.get(digest)
            if found is None:
                raise VersionNotFound(
                    f"no version of {versions.model} has the digest {digest}; {_listed('there are', versions.versions)}"
                )
            return found
        case ByTag(name=name):
            target = versions.tags.get(name)
            if target is None:
                known = [*versions.tags, *map(str, versions.versions)]
                raise VersionNotFound.of(versions.model, name, known)
            found = versions.find(target)
            if found is None:
                raise VersionNotFound(f"the tag {name!r} of {versions.model} names {target}, which does not exist")
            return found


def named(selector: str, versions: Sequence[Version], model_releases: ModelReleaseState) -> Version | None:
    """Returns the version that `selector` names among `versions`; None if there is none.

    Raises:
        InvalidSelector: The selector cannot be parsed.
    """
    index = VersionIndex.of("", {v: model_releases.release_status(v) for v in versions}, tags=model_releases.tags)
    try:
        return resolve(parse(selector), index, prefer_ready=False)
    except VersionNotFound:
        return None


def _choose(
    selector: Default | Latest | InRange,
    versions: VersionIndex,
    fits: Callable[[Version], bool],
    ready: Set[Version] | None,
) -> Version:
    """Returns the highest released version that fits and is in `ready`; with None, the highest that fits."""
    highest: Version | None = None
    coming: Version | None = None
    for version in versions.released:
        if not fits(version):
            continue
        if ready is None or version in ready:
            return version
        if highest is None:
            highest = version
        if coming is None and version in versions.coming:
            coming = version
    if highest is None:
        raise _nothing_released(selector, versions, fits)
    return coming or highest


def _nothing_released(
    selector: Default | Latest | InRange, versions: VersionIndex, fits: Callable[[Version], bool]
) -> VersionNotFound:
    """Returns an error that says that no released version fits, and which other version would fit or is near."""
    near: Collection[Version] = versions.versions
    if isinstance(selector, InRange):
        wanted = f"no released version of {versions.model} satisfies {str(selector)!r}"
        bounds = [comparator.version for alternative in selector.range.alternatives for comparator in alternative]
        if bounds:
            near = versions.around(bounds[0])
    else:
        wanted = f"{versions.model} has no released version other than prereleases"
    for others, release_status in ((versions.candidates, "is a candidate"), (versions.yanked, "was yanked")):
        fitting = next(filter(fits, others), None)
        if fitting is not None:
            return VersionNotFound(f"{wanted}; {fitting} would do, but {release_status}")
    return VersionNotFound(f"{wanted}; {_listed('nearest', near)}")


def _listed(noun: str, versions: Collection[Version]) -> str:
    if not versions:
        return "there are no versions"
    return f"{noun}: {', '.join(str(version) for version in list(versions)[:4])}{', ...' if len(versions) > 4 else ''}"
