"""What a candidate changes for clients of the version it follows, looked up as far as it takes to know.

Signature and declarations come from the manifests. Weights are read only where those say PATCH, files are optimised
only where weights as stored differ, and models are run only where weights are the same: most publishes change the
weights, and that shows from the files alone.
"""

from dataclasses import dataclass
from pathlib import Path

from turnout.errors import TurnoutError
from turnout.registry.agreement import Agreement, agree
from turnout.registry.compat import Bump, Change, declared_changes, required_bump, signature_changes
from turnout.registry.gates import Candidate, Parent
from turnout.registry.golden import GOLDEN_DIRECTORY
from turnout.registry.lab import Examination, Lab, Subject
from turnout.registry.likeness import Kinship, Likeness, likeness_changes
from turnout.registry.manifest import Manifest
from turnout.registry.weights import Weights, read_weights


@dataclass(frozen=True, slots=True)
class Difference:
    """What a version changes.

    Attributes:
        changes: Each with the bump that it obliges to.
        complete: False where changes that could only be a PATCH or a MINOR were not looked for, since the number allows
            both.
    """

    changes: tuple[Change, ...]
    complete: bool = True

    @property
    def bump(self) -> Bump:
        """The smallest bump that all changes allow."""
        return required_bump(self.changes)

    @property
    def reasons(self) -> tuple[Change, ...]:
        """The changes that make the bump what it is."""
        return tuple(change for change in self.changes if change.bump is self.bump)


class Comparison:
    """Compares a candidate with its parent."""

    def __init__(self, lab: Lab | None = None) -> None:
        """Prepares.

        Args:
            lab: Runs models; without it, weights are compared as stored, and answers are not.
        """
        self._lab = lab

    def difference(self, candidate: Candidate, parent: Parent, allowed: Bump = Bump.PATCH) -> Difference:
        """Returns what `candidate` changes for clients of `parent`.

        Args:
            candidate: Staged.
            parent: Published.
            allowed: What the candidate's number allows: whether it is less than a MINOR is found out only for PATCH.

        Raises:
            OSError: A file cannot be read.
        """
        old, new = parent.manifest, candidate.manifest
        changes = (*signature_changes(old.signature, new.signature), *declared_changes(old, new))
        if required_bump(changes) > Bump.PATCH:
            return Difference(changes)
        if allowed > Bump.PATCH:
            return Difference(changes, complete=_model_files(old) == _model_files(new))
        return Difference((*changes, *likeness_changes(self._likeness(candidate, parent))))

    def _likeness(self, candidate: Candidate, parent: Parent) -> Likeness:
        old, new = parent.manifest, candidate.manifest
        if _model_files(old) == _model_files(new):
            return Likeness(Kinship.SAME_FILES)
        before, after = read_weights(parent.directory), read_weights(candidate.directory)
        changed = (after.contents - before.contents).total()
        if before.contents == after.contents:
            kinship = Kinship.SAME_AS_STORED
        else:
            kinship = self._optimised_kinship(candidate, parent)
        agreement = None if kinship is Kinship.OTHERS else self._agreement(candidate, parent)
        return Likeness(kinship, before.operators == after.operators, len(after.tensors), changed, agreement)

    def _optimised_kinship(self, candidate: Candidate, parent: Parent) -> Kinship:
        if self._lab is None:
            return Kinship.OTHERS
        try:
            pair = self._lab.optimised_weights(subject_of(parent), subject_of(candidate))
        except TurnoutError:
            return Kinship.UNKNOWN
        if pair is None:
            return Kinship.UNKNOWN
        return Kinship.SAME_OPTIMISED if _same(*pair) else Kinship.OTHERS

    def _agreement(self, candidate: Candidate, parent: Parent) -> Agreement | None:
        if self._lab is None:
            return None
        try:
            after = examined(self._lab, candidate)
            before = parent_examined(self._lab, candidate, parent)
        except TurnoutError:
            return None
        return agree(parent.manifest, before.answers, after.answers)


def subject_of(version: Candidate | Parent) -> Subject:
    """Returns what a lab runs."""
    return Subject(version.directory, version.manifest)


def examined(lab: Lab, candidate: Candidate) -> Examination:
    """Has `lab` examine a candidate, on its own golden cases and its parent's; asked again, the lab remembers.

    Raises:
        TurnoutError: It cannot be loaded.
    """
    return lab.examine(subject_of(candidate), golden_files(candidate))


def parent_examined(lab: Lab, candidate: Candidate, parent: Parent) -> Examination:
    """Has `lab` examine the parent of `candidate` on the same golden cases.

    Raises:
        TurnoutError: It cannot be loaded.
    """
    return lab.examine(subject_of(parent), golden_files(candidate))


def golden_paths(candidate: Candidate) -> list[str]:
    """Returns the golden cases of a candidate, relative to its directory."""
    return _golden_names(candidate.manifest)


def golden_files(candidate: Candidate) -> list[Path]:
    """Returns the golden cases of a candidate, then those of its parent that it has not itself."""
    own = [candidate.directory / path for path in _golden_names(candidate.manifest)]
    parent = candidate.parent
    if parent is None:
        return own
    known = {entry.digest for entry in candidate.manifest.files}
    theirs = [
        parent.directory / entry.path
        for entry in parent.manifest.files
        if entry.path.startswith(f"{GOLDEN_DIRECTORY}/") and entry.digest not in known
    ]
    return [*own, *theirs]


def _golden_names(manifest: Manifest) -> list[str]:
    return [entry.path for entry in manifest.files if entry.path.startswith(f"{GOLDEN_DIRECTORY}/")]


def _model_files(manifest: Manifest) -> list[tuple[str, str]]:
    return [(e.path, e.digest) for e in manifest.files if not e.path.startswith(f"{GOLDEN_DIRECTORY}/")]


def _same(first: Weights, second: Weights) -> bool:
    return first.contents == second.contents
