"""What signatures have to do with one publish."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from turnout.cli.workspace import Workspace
from turnout.registry.gates import Candidate, Gate
from turnout.registry.publish import PublishResult
from turnout.registry.signing import PrivateKey
from turnout.registry.trust import SignatureGate, Trust, keep
from turnout.state.store import StateStore


@dataclass(frozen=True, slots=True)
class Signer:
    """What signatures have to do with one publish.

    Attributes:
        workspace: Where to.
        gates: What the version has to pass for them.
        key: What it is signed with; None for nothing.
    """

    workspace: Workspace
    gates: Sequence[Gate]
    key: PrivateKey | None

    @classmethod
    def of(cls, workspace: Workspace, model: str, key_file: Path | None) -> Self:
        """Reads the key, and whose signatures the settings ask for.

        Raises:
            ConfigError: A key is none.
        """
        key = None if key_file is None else PrivateKey.load(key_file)
        trust = Trust.of(workspace.settings.for_model(model).signing)
        gates = (SignatureGate(trust, workspace.repository, key),) if trust.required else ()
        return cls(workspace, gates, key)

    def attest(self, candidate: Candidate) -> None:
        """Puts the signature beside the version, before the version exists: it is never there unsigned."""
        if self.key is not None:
            manifest = candidate.manifest
            keep(self.workspace.repository, manifest.model, manifest.version, self.key.sign(candidate.digest))

    def record(self, store: StateStore, result: PublishResult, actor: str, reason: str) -> None:
        """Has the log tell of the signature."""
        if self.key is not None:
            manifest, key = result.manifest, self.key.public.id
            store.record_signed(manifest.model, manifest.version, result.digest, key, actor=actor, reason=reason)
