"""Finds what a candidate changes for clients of its parent, with no more work than necessary.

Signature and declarations come from the manifests. Weights are read only if the manifests require no more than a PATCH,
files are optimised only if the stored weights differ, and models are run only if the weights are the same. Most
publishes change the weights, which shows from the files alone.
"""

from dataclasses import dataclass
from pathlib import Path

from turnout.errors import TurnoutError
from turnout.registry.compatibility.agreement import AnswerAgreement, agree
from turnout.registry.compatibility.compat import (
    VersionBump,
    VersionChange,
    declared_changes,
    required_bump,
    signature_changes,
)
from turnout.registry.compatibility.model_equivalence import ModelEquivalence, WeightsEquivalence, equivalence_changes
from turnout.registry.compatibility.sandbox import Sandbox, SandboxVersion
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.onnx.weights import Weights, read_weights
from turnout.registry.storage.golden import is_golden


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """The changes of a version for clients of an older one.

    Attributes:
        changes: Changes, each with the bump that it requires.
        complete: False if it was not checked whether the version requires a MINOR or only a PATCH, because its number
            allows both.
    """

    changes: tuple[VersionChange, ...]
    complete: bool = True

    @property
    def bump(self) -> VersionBump:
        """The smallest bump that covers all changes."""
        return required_bump(self.changes)

    @property
    def reasons(self) -> tuple[VersionChange, ...]:
        """The changes that require this bump."""
        return tuple(change for change in self.changes if change.bump is self.bump)


class ParentComparison:
    """Compares a candidate with its parent, and caches the result."""

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        """Creates the comparison. Without a sandbox, weights are compared only as stored, and no answers."""
        self._sandbox = sandbox
        self._known: dict[tuple[Path, Path], VersionDifference] = {}

    def difference(
        self, new: SandboxVersion, old: SandboxVersion, allowed: VersionBump = VersionBump.PATCH
    ) -> VersionDifference:
        """Returns what `new` changes for clients of `old`, the earlier version.

        `allowed` is the largest kind of change that the number of `new` allows. Changes between PATCH and MINOR are
        told apart only if it is PATCH.

        Raises:
            OSError: A file cannot be read.
        """
        before, after = old.manifest, new.manifest
        changes = (*signature_changes(before.signature, after.signature), *declared_changes(before, after))
        if required_bump(changes) > VersionBump.PATCH:
            return VersionDifference(changes)
        pair = new.directory, old.directory
        if pair in self._known:
            return self._known[pair]
        if allowed > VersionBump.PATCH:
            return VersionDifference(changes, complete=_model_files(before) == _model_files(after))
        self._known[pair] = VersionDifference((*changes, *equivalence_changes(self._equivalence(new, old))))
        return self._known[pair]

    def _equivalence(self, new: SandboxVersion, old: SandboxVersion) -> ModelEquivalence:
        if _model_files(old.manifest) == _model_files(new.manifest):
            return ModelEquivalence(WeightsEquivalence.SAME_FILES)
        try:
            before, after = self._weights(old), self._weights(new)
        except TurnoutError:
            return ModelEquivalence(WeightsEquivalence.UNKNOWN, agreement=self._agreement(new, old))
        changed = (after.contents - before.contents).total()
        same = before.contents == after.contents
        weights_equivalence = WeightsEquivalence.SAME_AS_STORED if same else self._optimised_equivalence(new, old)
        agreement = None if weights_equivalence is WeightsEquivalence.OTHERS else self._agreement(new, old)
        return ModelEquivalence(
            weights_equivalence, before.operators == after.operators, len(after.tensors), changed, agreement
        )

    def _weights(self, version: SandboxVersion) -> Weights:
        return read_weights(version.directory) if self._sandbox is None else self._sandbox.weights(version)

    def _optimised_equivalence(self, new: SandboxVersion, old: SandboxVersion) -> WeightsEquivalence:
        if self._sandbox is None:
            return WeightsEquivalence.OTHERS
        try:
            pair = self._sandbox.optimised_weights(old, new)
        except TurnoutError:
            return WeightsEquivalence.UNKNOWN
        if pair is None:
            return WeightsEquivalence.UNKNOWN
        first, second = pair
        same = first.contents == second.contents
        return WeightsEquivalence.SAME_OPTIMISED if same else WeightsEquivalence.OTHERS

    def _agreement(self, new: SandboxVersion, old: SandboxVersion) -> AnswerAgreement | None:
        if self._sandbox is None:
            return None
        try:
            golden = golden_files(new, old)
            after, before = self._sandbox.examine(new, golden), self._sandbox.examine(old, golden)
        except TurnoutError:
            return None
        return agree(old.manifest, before.answers, after.answers)


def golden_files(new: SandboxVersion, old: SandboxVersion | None) -> list[Path]:
    """Returns the golden cases of a version, then those of the older one that it does not contain."""
    own = [new.directory / path for path in golden_paths(new.manifest)]
    if old is None:
        return own
    known = {entry.digest for entry in new.manifest.files}
    theirs = [entry for entry in old.manifest.files if is_golden(entry.path) and entry.digest not in known]
    return [*own, *(old.directory / entry.path for entry in theirs)]


def golden_paths(manifest: Manifest) -> list[str]:
    """Returns the paths of a version's golden cases, relative to its directory."""
    return [entry.path for entry in manifest.files if is_golden(entry.path)]


def _model_files(manifest: Manifest) -> list[tuple[str, str]]:
    return [(entry.path, entry.digest) for entry in manifest.files if not is_golden(entry.path)]
