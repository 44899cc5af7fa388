"""Which version number a change may go by. Pure.

A bump is read as npm's and Cargo's ranges read it, since those are what clients write: `^1.2.3` takes minor and patch
bumps, `^0.2.3` patch bumps alone, `^0.0.3` nothing else. So below 1.0.0 everything moves one place to the right: in
`0.y.z` a minor bump may break, and a patch bump may add; in `0.0.z` every bump may break.

**The nearest lower version** is the highest of lower precedence, pre-releases of the candidate's own core left out:
SemVer promises nothing between `3.3.0-rc.1`, `3.3.0-rc.2` and `3.3.0`, and each of them is compared with what was there
before all of them. Each step being legal makes every chain of them legal, whatever lines are published side by side.
"""

from collections.abc import Collection

from semver import Version

from turnout.registry.compatibility.compat import VersionBump

FIRST = Version(1)
"""What the first version of a model is called if nobody says."""


def nearest_lower(version: Version, published: Collection[Version]) -> Version | None:
    """Returns the version that `version` is compared with, or None if there is none."""
    core = _core(version)
    lower = [other for other in published if other < version and not (other.prerelease and _core(other) == core)]
    return max(lower, default=None)


def bump_between(lower: Version, higher: Version) -> VersionBump:
    """Returns what going from `lower` to `higher` allows clients to meet.

    Everything between a pre-release and what follows it in its own core: nothing was promised yet.
    """
    if lower.prerelease and _core(lower) == _core(higher):
        return VersionBump.MAJOR
    if lower.major != higher.major:
        return VersionBump.MAJOR
    if lower.major == 0:
        if lower.minor != higher.minor or lower.minor == 0:
            return VersionBump.MAJOR
        return VersionBump.MINOR
    return VersionBump.MINOR if lower.minor != higher.minor else VersionBump.PATCH


def bumped(lower: Version, bump: VersionBump) -> Version:
    """Returns the lowest release above `lower` that allows `bump`; of a pre-release, above its core."""
    core = _core(lower)
    if core.major == 0:
        # 0.0.z allows anything at every step, 0.y.z breaking changes in the minor.
        return core.bump_minor() if bump is VersionBump.MAJOR and core.minor else core.bump_patch()
    if bump is VersionBump.MAJOR:
        return core.bump_major()
    return core.bump_minor() if bump is VersionBump.MINOR else core.bump_patch()


def next_version(lower: Version, bump: VersionBump, taken: Collection[Version]) -> Version:
    """Returns the version that a change of `bump` over `lower` should go by: the lowest that is legal and free."""
    version = bumped(lower, bump)
    while version in taken:
        version = bumped(version, bump)
    return version


def automatic(bump: VersionBump, held_against: Version | None, taken: Collection[Version]) -> Version:
    """Returns the version that follows all that are `taken`, yanked ones too.

    Args:
        bump: What the change over `held_against` obliges to.
        held_against: The nearest lower version, that is, of `above(taken)`; None if there is no lower one.
        taken: Every version number of the model that was ever used.
    """
    highest = max(taken, default=None)
    if highest is None:
        return FIRST
    if highest.prerelease:
        final = _core(highest)  # 3.3.0-rc.1 becomes 3.3.0, unless more changed than that allows
        return final if held_against is None else max(final, bumped(held_against, bump))
    return next_version(highest, bump, taken)


def above(taken: Collection[Version]) -> Version:
    """Returns a version number above all of `taken`, that stands for the one to be chosen when looking for the nearest
    lower one.
    """
    highest = max(taken, default=None)
    if highest is None:
        return FIRST
    return _core(highest) if highest.prerelease else highest.bump_patch()


def _core(version: Version) -> Version:
    return Version(version.major, version.minor, version.patch)
