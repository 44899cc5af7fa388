"""The versions of a model when a publish begins, among which the parent of the new version is found."""

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
        published: Published versions by number, without yanked ones, which must not become parents.
        taken: All known numbers that were ever used.
    """

    repository: Repository
    published: Mapping[Version, Published]
    taken: frozenset[Version]

    @classmethod
    def of(cls, repository: Repository, model: str, yanked: Collection[Version]) -> Self:
        """Reads the versions from the repository. Raises OSError if the repository cannot be read."""
        found = {p.manifest.version: p for p in repository.scan().versions(model)}
        kept = {version: published for version, published in found.items() if version not in yanked}
        return cls(repository, kept, frozenset([*found, *yanked]))

    def parent(self, version: Version) -> Parent | None:
        """Returns the version with which `version` is compared; None if there is no lower one."""
        lower = nearest_lower(version, self.published)
        if lower is None:
            return None
        found = self.published[lower]
        return Parent(self.repository.fetch(found.manifest.model, lower), found.manifest, found.digest)

    @property
    def highest(self) -> Published | None:
        """The version with the highest precedence; None if there is none."""
        return self.published[max(self.published)] if self.published else None
