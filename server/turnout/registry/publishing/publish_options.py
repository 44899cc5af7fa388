"""Who publishes a version, and how."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.registry.gates.gate import Skip
from turnout.registry.signing.signer import Signer


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """Who publishes, and how.

    Attributes:
        signer: Signs the version; None for nobody.
        dry_run: Do everything, and commit nothing.
    """

    actor: str
    reason: str
    signer: Signer | None = None
    skips: Sequence[Skip] = ()
    dry_run: bool = False
