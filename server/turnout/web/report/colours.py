"""Gives each version one colour, in charts, tables, badges and the report. Pure."""

from collections.abc import Iterable, Mapping

from semver import Version

COLOURS = 10
"""Number of colours: `--v0` to `--v9` in `palette.css`. An eleventh version gets the first one again."""


def version_colours(versions: Iterable[str], *more: str) -> Mapping[str, int]:
    """Returns the number of each version's colour.

    Args:
        versions: All of a model, in any order: the lowest has the first colour, so that a higher one changes nothing.
        more: Versions that may be gone; they get the colours that follow.
    """
    known = sorted(set(versions), key=Version.parse)
    gone = sorted(set(more).difference(known), key=Version.parse)
    return {version: number % COLOURS for number, version in enumerate([*known, *gone])}
