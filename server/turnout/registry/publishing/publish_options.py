"""Options of a publish: its author, and how to publish."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.registry.gates.gate import Skip
from turnout.registry.signing.signer import Signer


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """Options of a publish.

    Attributes:
        actor: Who publishes, as recorded.
        signer: Signs the version; None if it is not to be signed.
        dry_run: Whether to do everything except the commit.
    """

    actor: str
    reason: str
    signer: Signer | None = None
    skips: Sequence[Skip] = ()
    dry_run: bool = False
