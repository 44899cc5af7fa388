"""Compares the repository with the known versions: what exists, what is missing, what may be forgotten. Pure.

Versions do not disappear by themselves: `turnout prune` records which ones it removes. Anything else that is missing
indicates a lost mount, a failing disk or a mistake, so versions in memory stay in memory and the loss is reported:

- The root is missing, unreadable, or empty although versions were known: the repository is unavailable. Nothing is
  forgotten, loaded or unloaded because of it.
- A model's directory is unreadable: the same applies to that model.
- A version's directory is gone: the version is served from memory until it is unloaded or pruned. A version that is not
  in memory is forgotten.
- An object store or a registry does not answer: the latest listing stays in force, and cached versions can be loaded.
  The repository is reported as unavailable nevertheless.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field

from semver import Version

from turnout.registry.storage.listing import Listing

Key = tuple[str, Version]
"""Model and version."""


@dataclass(frozen=True, slots=True)
class RepositoryPresence:
    """The state of the repository at the latest scan.

    Attributes:
        fault: Why the repository as a whole is unavailable, as a predicate without a path; "" if it is available.
        models: Why a model's directory is unavailable, by name of the model.
        missing: Known versions that were not found.
        away: Why an earlier listing is used, as a predicate; "" if the listing is current.
    """

    fault: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    found: Set[Key] = frozenset()
    missing: Set[Key] = frozenset()
    away: str = ""

    @property
    def available(self) -> bool:
        """Whether the repository and every model's directory in it could be read."""
        return not self.fault and not self.models and not self.away

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is unavailable, as sentences."""
        whole = tuple(f"the model repository {why}" for why in (self.fault, self.away) if why)
        return whole or tuple(self.models.values())

    def reachable(self, model: str) -> bool:
        """Returns whether a model's directory could be read."""
        return not self.fault and model not in self.models


def look(listing: Listing, known: Collection[Key], recorded: Collection[Key]) -> RepositoryPresence:
    """Compares the result of a scan with the known versions.

    Versions that the state store records as published, and neither yanked nor pruned, are expected as well.
    """
    expected = set(known) | set(recorded)
    if listing.away and not listing.published:
        return RepositoryPresence(listing.away, missing=frozenset(known))
    if not listing.present:
        return RepositoryPresence("is not there", missing=frozenset(known)) if expected else RepositoryPresence()
    if not listing.published and not listing.problems and expected:
        versions = "1 version" if len(expected) == 1 else f"{len(expected)} versions"
        names = sorted({model for model, _ in expected})
        models = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return RepositoryPresence(f"is empty, and {versions} of {models} should be in it", missing=frozenset(known))
    faults = {p.model: p.reason for p in listing.problems if not p.version}
    found = {(p.manifest.model, p.manifest.version) for p in listing.published}
    found |= {(p.model, Version.parse(p.version)) for p in listing.problems if p.damaged}
    missing = frozenset(key for key in known if key not in found)
    return RepositoryPresence(models=faults, found=found, missing=missing, away=listing.away)


def unreadable(reason: str, known: Collection[Key]) -> RepositoryPresence:
    """Returns the presence of a repository whose root cannot be read."""
    return RepositoryPresence(reason, missing=frozenset(known))
