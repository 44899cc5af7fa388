"""Assigns each version a colour, which charts, tables and the report share. Pure."""

from collections.abc import Iterable, Mapping

from semver import Version

COLOURS = 10
"""Number of colours: `--v0` to `--v9` in `palette.css`. The eleventh version gets the first colour again."""


def version_colours(versions: Iterable[str], *more: str) -> Mapping[str, int]:
    """Returns the colour number of each version.

    Args:
        versions: All versions of a model, in any order. The lowest gets the first colour, so that a new version does
            not change the colours of the others.
        more: Versions that may no longer exist. They get the colours after those of `versions`.
    """
    known = sorted(set(versions), key=Version.parse)
    gone = sorted(set(more).difference(known), key=Version.parse)
    return {version: number % COLOURS for number, version in enumerate([*known, *gone])}
