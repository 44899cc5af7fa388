"""Resolves the selectors in a model's `load` setting."""

from collections.abc import Sequence

from semver import Version

from turnout.errors import VersionNotFound
from turnout.routing.selection.resolution import VersionIndex, resolve
from turnout.routing.selection.selector import parse
from turnout.state.release_status import ModelReleaseState


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
