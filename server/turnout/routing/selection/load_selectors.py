"""What the selectors in a model's `load` setting name."""

from collections.abc import Sequence

from semver import Version

from turnout.errors import VersionNotFound
from turnout.routing.selection.resolution import VersionIndex, resolve
from turnout.routing.selection.selector import parse
from turnout.state.release_status import Declarations


def named(selector: str, versions: Sequence[Version], declarations: Declarations) -> Version | None:
    """Returns the version that `selector` names among `versions`, or None.

    Raises:
        InvalidSelector: It does not parse.
    """
    index = VersionIndex.of("", {v: declarations.standing(v) for v in versions}, tags=declarations.tags)
    try:
        return resolve(parse(selector), index, prefer_ready=False)
    except VersionNotFound:
        return None
