"""What the repository shows beside what is known of it: what is there, what went missing, what may be forgotten. Pure.

Versions do not go by themselves: `turnout prune` says which ones do. Whatever else is missing is a mount that went
away, a disk that fails or a mistake, so what is in memory stays in memory and is reported:

- The root is missing or cannot be read, or is empty although versions were known: the repository is unavailable.
  Nothing is forgotten, loaded or unloaded because of it.
- A model's directory cannot be read: the same for that model.
- A version's directory is gone: the version is served from memory until somebody unloads or prunes it. One that is not
  in memory is forgotten.
- Versions live in an object store or a registry that does not answer: what was listed last stays in force, and what is
  in the cache can be loaded. It is reported as unavailable all the same.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field

from semver import Version

from turnout.registry.storage.listing import Listing

Key = tuple[str, Version]
"""Model and version."""


@dataclass(frozen=True, slots=True)
class RepositoryPresence:
    """How the repository stood when it was looked at last.

    Attributes:
        fault: Why it is unavailable as a whole, in half a sentence without a path; "" if it is available.
        models: By name, why a model's directory is unavailable.
        found: The versions that were there.
        missing: Versions that are known, and were not.
        away: Why what was found is what was found earlier, in half a sentence; "" if it was looked at now.
    """

    fault: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    found: Set[Key] = frozenset()
    missing: Set[Key] = frozenset()
    away: str = ""

    @property
    def available(self) -> bool:
        """Tells whether the repository could be read, and every model's directory in it."""
        return not self.fault and not self.models and not self.away

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is unavailable, in sentences."""
        whole = tuple(f"the model repository {why}" for why in (self.fault, self.away) if why)
        return whole or tuple(self.models.values())

    def reachable(self, model: str) -> bool:
        """Tells whether the model's directory could be read."""
        return not self.fault and model not in self.models


def look(listing: Listing, known: Collection[Key], recorded: Collection[Key]) -> RepositoryPresence:
    """Compares what a scan found with what is known.

    Args:
        listing: What the scan found.
        known: The versions that the server knows.
        recorded: Those that the state store knows to be published, and not to be yanked or pruned.
    """
    expected = set(known) | set(recorded)
    if listing.away and not listing.published:
        return RepositoryPresence(listing.away, missing=frozenset(known))
    if not listing.present:
        return RepositoryPresence("is not there", missing=frozenset(known)) if expected else RepositoryPresence()
    if not listing.published and not listing.problems and expected:
        versions = "1 version" if len(expected) == 1 else f"{len(expected)} versions"
        return RepositoryPresence(
            f"is empty, and {versions} of {_models(expected)} should be in it", missing=frozenset(known)
        )
    models = {p.model: p.reason for p in listing.problems if not p.version}
    found = {(p.manifest.model, p.manifest.version) for p in listing.published}
    found |= {(p.model, Version.parse(p.version)) for p in listing.problems if p.damaged}
    missing = frozenset(key for key in known if key not in found)
    return RepositoryPresence(models=models, found=found, missing=missing, away=listing.away)


def unreadable(reason: str, known: Collection[Key]) -> RepositoryPresence:
    """Returns the presence of a repository whose root cannot be read."""
    return RepositoryPresence(reason, missing=frozenset(known))


def _models(keys: Collection[Key]) -> str:
    names = sorted({model for model, _ in keys})
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
