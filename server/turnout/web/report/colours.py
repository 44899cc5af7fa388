"""Assigns each version a colour, which charts, tables and the report share. Pure."""

from collections.abc import Iterable, Mapping

from semver import Version

COLOURS = 10
"""Number of colours: `--v0` to `--v9` in `palette.css`. The eleventh version gets the first colour again."""


def version_colours(versions: Iterable[str], *more: str) -> Mapping[str, int]:
    """Returns the colour number of each version.

    The lowest of a model's `versions` gets the first colour, so that a new version does not change the colours of the
    others. `more` are versions that may no longer exist; they get the colours after those.
    """
    known = sorted(set(versions), key=Version.parse)
    gone = sorted(set(more).difference(known), key=Version.parse)
    return {version: number % COLOURS for number, version in enumerate([*known, *gone])}
