"""Decides by its signatures whether a version may be served, and whether to warn about it."""

from turnout.config import Signing
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.serving.versions.catalog import VersionEntry


def trusted(repository: Repository, entry: VersionEntry, signing: Signing) -> bool:
    """Returns whether a version may be served."""
    trust = Trust.of(signing)
    return not trust.required or not trust.doubt(repository, Published(entry.manifest, entry.digest))


def doubt_of(repository: Repository, published: Published, signing: Signing) -> str:
    """Returns why a version's signatures are insufficient although it is served; "" if there is no such reason."""
    trust = Trust.of(signing)
    return "" if trust.required else trust.doubt(repository, published)
