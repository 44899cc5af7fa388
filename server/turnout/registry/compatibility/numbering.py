"""Decides which version number a change may have. Without side effects.

Bumps are interpreted like the ranges of npm and Cargo, since these are what clients write: `^1.2.3` accepts minor and
patch bumps, `^0.2.3` only patch bumps, `^0.0.3` nothing else. So below 1.0.0 everything shifts one place to the right:
in `0.y.z` a minor bump may break clients, and a patch bump may add features; in `0.0.z` every bump may break clients.

**The nearest lower version** is the highest of lower precedence, except pre-releases of the candidate's own core:
SemVer promises nothing between `3.3.0-rc.1`, `3.3.0-rc.2` and `3.3.0`, so that each of them is compared with the
version before all of them. If each step is legal, every chain of steps is legal, whichever lines are published in
parallel.
"""

from collections.abc import Collection

from semver import Version

from turnout.registry.compatibility.compat import VersionBump

FIRST = Version(1)
"""Default number of the first version of a model."""


def nearest_lower(version: Version, published: Collection[Version]) -> Version | None:
    """Returns the version with which `version` is compared; None if there is no lower one."""
    core = version.finalize_version()
    lower = [
        other for other in published if other < version and not (other.prerelease and other.finalize_version() == core)
    ]
    return max(lower, default=None)


def bump_between(lower: Version, higher: Version) -> VersionBump:
    """Returns the largest kind of change that clients must expect between `lower` and `higher`.

    Any change is allowed between a pre-release and a later version with the same core: nothing was promised yet.
    """
    if lower.prerelease and lower.finalize_version() == higher.finalize_version():
        return VersionBump.MAJOR
    if lower.major != higher.major:
        return VersionBump.MAJOR
    if lower.major == 0:
        if lower.minor != higher.minor or lower.minor == 0:
            return VersionBump.MAJOR
        return VersionBump.MINOR
    return VersionBump.MINOR if lower.minor != higher.minor else VersionBump.PATCH


def bumped(lower: Version, bump: VersionBump) -> Version:
    """Returns the lowest release above `lower` that allows `bump`. For a pre-release, it is above its core."""
    core = lower.finalize_version()
    if core.major == 0:
        # In 0.0.z every step allows any change; in 0.y.z a minor bump allows breaking changes.
        return core.bump_minor() if bump is VersionBump.MAJOR and core.minor else core.bump_patch()
    if bump is VersionBump.MAJOR:
        return core.bump_major()
    return core.bump_minor() if bump is VersionBump.MINOR else core.bump_patch()


def next_version(lower: Version, bump: VersionBump, taken: Collection[Version]) -> Version:
    """Returns the number that a change of `bump` over `lower` should have: the lowest that is legal and not taken."""
    version = bumped(lower, bump)
    while version in taken:
        version = bumped(version, bump)
    return version


def automatic(bump: VersionBump, held_against: Version | None, taken: Collection[Version]) -> Version:
    """Returns the version number that follows all `taken` numbers, including those of yanked versions.

    Args:
        bump: Smallest bump that the change over `held_against` requires.
        held_against: Nearest lower version of `above(taken)`; None if there is none.
        taken: All version numbers of the model that were ever used.
    """
    highest = max(taken, default=None)
    if highest is None:
        return FIRST
    if highest.prerelease:
        final = highest.finalize_version()  # 3.3.0-rc.1 becomes 3.3.0, unless more changed than that allows
        return final if held_against is None else max(final, bumped(held_against, bump))
    return next_version(highest, bump, taken)


def above(taken: Collection[Version]) -> Version:
    """Returns a version number above all `taken` numbers. It is a placeholder for finding the nearest lower version
    before the number is chosen.
    """
    highest = max(taken, default=None)
    if highest is None:
        return FIRST
    return highest.finalize_version() if highest.prerelease else highest.bump_patch()
