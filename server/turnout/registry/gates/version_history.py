"""The versions of one model that were there when a publish began, and which of them a new one is compared with."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from semver import Version

from turnout.registry.compatibility.numbering import nearest_lower
from turnout.registry.gates.gate import Parent
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository


@dataclass(frozen=True, slots=True)
class VersionHistory:
    """The versions of one model.

    Attributes:
        published: By version; yanked ones are left out, since nobody is to go on from them.
        taken: Every number that was ever used, as far as is known.
    """

    repository: Repository
    published: Mapping[Version, Published]
    taken: frozenset[Version]

    @classmethod
    def of(cls, repository: Repository, model: str, yanked: Collection[Version]) -> Self:
        """Reads them.

        Raises:
            OSError: The repository cannot be read.
        """
        found = {p.manifest.version: p for p in repository.scan().versions(model)}
        release_status = {version: published for version, published in found.items() if version not in yanked}
        return cls(repository, release_status, frozenset([*found, *yanked]))

    def parent(self, version: Version) -> Parent | None:
        """Returns what `version` is compared with."""
        lower = nearest_lower(version, self.published)
        if lower is None:
            return None
        found = self.published[lower]
        return Parent(self.repository.fetch(found.manifest.model, lower), found.manifest, found.digest)

    @property
    def highest(self) -> Published | None:
        """The version of the highest precedence."""
        return self.published[max(self.published)] if self.published else None
