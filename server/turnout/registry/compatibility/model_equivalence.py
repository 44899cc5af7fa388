"""Decides whether two versions with one signature are the same model in another form, as a PATCH requires.

Without side effects. The same model means the same weights and the same answers. Neither is sufficient alone: the same
weights with another activation function answer differently, and a newly trained model may answer a few examples
identically.

Weights are the same if their contents are, as multisets, regardless of names and order: either as stored or, since
optimisers fold, fuse and transpose them, after ONNX Runtime has optimised both files in the same way. If the model is
too large for that, close answers to many examples are accepted instead.
"""

from dataclasses import dataclass
from enum import Enum, auto

from turnout.registry.compatibility.agreement import AnswerAgreement
from turnout.registry.compatibility.compat import VersionBump, VersionChange

ENOUGH_EXAMPLES = 8
"""Number of examples with close answers that are required if weights cannot be compared."""


class WeightsEquivalence(Enum):
    """Result of comparing the weights of two versions."""

    SAME_FILES = auto()
    """The ONNX files and their external data are identical, byte by byte."""
    SAME_AS_STORED = auto()
    SAME_OPTIMISED = auto()
    """The same after ONNX Runtime has optimised both in the same way."""
    OTHERS = auto()
    UNKNOWN = auto()
    """Different as stored, and too large to be optimised for a comparison; or they cannot be read within limits."""


@dataclass(frozen=True, slots=True)
class ModelEquivalence:
    """Evidence about whether two versions with one signature are the same model.

    Attributes:
        weights_equivalence: Result of comparing the weights.
        same_operators: Whether operators and attributes are the same, as multisets.
        tensors: Number of weight tensors of the newer version.
        changed: Number of those that the older version does not have, as stored.
        agreement: Comparison of their answers; None if nothing was run.
    """

    weights_equivalence: WeightsEquivalence
    same_operators: bool = False
    tensors: int = 0
    changed: int = 0
    agreement: AnswerAgreement | None = None


def equivalence_changes(equivalence: ModelEquivalence) -> tuple[VersionChange, ...]:
    """Returns what the difference between two versions with one signature means; empty if the files are the same."""
    match equivalence.weights_equivalence:
        case WeightsEquivalence.SAME_FILES:
            return ()
        case WeightsEquivalence.OTHERS:
            count = f"{equivalence.changed} of {equivalence.tensors} tensors" if equivalence.changed else "tensors"
            return (VersionChange("weights", VersionBump.MINOR, f"differ ({count} changed)"),)
        case WeightsEquivalence.UNKNOWN:
            return (_by_answers(equivalence),)
        case WeightsEquivalence.SAME_AS_STORED:
            return (_same_weights(equivalence, "are the same tensors"),)
        case WeightsEquivalence.SAME_OPTIMISED:
            return (_same_weights(equivalence, "are the same once both files are optimised alike"),)


def _same_weights(equivalence: ModelEquivalence, message: str) -> VersionChange:
    agreement = equivalence.agreement
    if agreement is None or not agreement.examples:
        if equivalence.same_operators:
            return VersionChange("weights", VersionBump.PATCH, f"{message}, and so are the operators; nothing was run")
        return VersionChange(
            "operators", VersionBump.MINOR, "differ, and nothing was run to show that the answers are the same"
        )
    if agreement.within:
        return VersionChange(
            "weights", VersionBump.PATCH, f"{message}, and {_explain(agreement)} are answered within tolerance"
        )
    apart = f"{agreement.furthest} by {agreement.largest:.3g}" if agreement.furthest else "they cannot be compared"
    return VersionChange("answers", VersionBump.MINOR, f"differ, though the weights are the same: {apart}")


def _by_answers(equivalence: ModelEquivalence) -> VersionChange:
    agreement = equivalence.agreement
    if agreement is not None and agreement.close and agreement.within and agreement.examples >= ENOUGH_EXAMPLES:
        return VersionChange(
            "weights", VersionBump.PATCH, f"are stored differently, and {_explain(agreement)} are answered closely"
        )
    return VersionChange(
        "weights", VersionBump.MINOR, "are stored differently, and nothing shows that they answer the same"
    )


def _explain(agreement: AnswerAgreement) -> str:
    synthetic = agreement.examples - agreement.golden
    parts = [f"{agreement.golden} golden cases"] if agreement.golden else []
    parts += [f"{synthetic} synthetic inputs"] if synthetic else []
    return " and ".join(parts)
