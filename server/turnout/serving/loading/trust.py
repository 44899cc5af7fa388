"""Whether a version may be served, and with what doubt, as far as its signatures go."""

from turnout.config import Signing
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.serving.versions.catalog import VersionEntry


def trusted(repository: Repository, entry: VersionEntry, signing: Signing) -> bool:
    """Tells whether a version may be served."""
    trust = Trust.of(signing)
    return not trust.required or not trust.doubt(repository, Published(entry.manifest, entry.digest))


def doubt_of(repository: Repository, published: Published, signing: Signing) -> str:
    """Says why a version is served although it is not signed as required; "" if that is not so."""
    trust = Trust.of(signing)
    return "" if trust.required else trust.doubt(repository, published)
