"""Whether two versions of one signature are the same model in another form: what tells a PATCH from a MINOR. Pure.

The same model means the same weights and the same answers. Neither alone will do: the same weights under another
activation answer otherwise, and another training may answer all of a few examples alike.

Weights are the same where their contents are, as multisets, whatever they are called and in whatever order they stand:
as they are stored; or, since optimisers fold, fuse and transpose them, after ONNX Runtime has optimised both files in
the same way. Where that cannot be had, for the size of the model, answers that are close on many examples stand in.
"""

from dataclasses import dataclass
from enum import Enum, auto

from turnout.registry.compatibility.agreement import AnswerAgreement
from turnout.registry.compatibility.compat import VersionBump, VersionChange

ENOUGH_EXAMPLES = 8
"""Examples on which answers have to be close where weights cannot be compared."""


class WeightsEquivalence(Enum):
    """How the weights of two versions compare."""

    SAME_FILES = auto()
    """The ONNX file and its external data are the same, byte by byte."""
    SAME_AS_STORED = auto()
    SAME_OPTIMISED = auto()
    """After ONNX Runtime optimised both in the same way."""
    OTHERS = auto()
    UNKNOWN = auto()
    """Others as stored, and too large to optimise for a comparison."""


@dataclass(frozen=True, slots=True)
class ModelEquivalence:
    """What is known about two versions of one signature.

    Attributes:
        same_operators: Operators and attributes are the same, as multisets.
        tensors: Weights of the newer version.
        changed: Of these, how many the older has not, as stored.
        agreement: Of their answers; None if nothing was run.
    """

    weights_equivalence: WeightsEquivalence
    same_operators: bool = False
    tensors: int = 0
    changed: int = 0
    agreement: AnswerAgreement | None = None

    @property
    def ran(self) -> bool:
        """Both answered an example."""
        return self.agreement is not None and self.agreement.examples > 0


def equivalence_changes(equivalence: ModelEquivalence) -> tuple[VersionChange, ...]:
    """Returns what the difference between two versions of one signature means; empty for the same files."""
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
    if agreement is None or not equivalence.ran:
        if equivalence.same_operators:
            return VersionChange("weights", VersionBump.PATCH, f"{message}, and so are the operators; nothing was run")
        return VersionChange(
            "operators", VersionBump.MINOR, "differ, and nothing was run that would show the same answers"
        )
    if agreement.within:
        return VersionChange(
            "weights", VersionBump.PATCH, f"{message}, and {_explain(agreement)} are answered within tolerance"
        )
    return VersionChange(
        "answers", VersionBump.MINOR, f"differ, though the weights are the same: {_furthest(agreement)}"
    )


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


def _furthest(agreement: AnswerAgreement) -> str:
    return f"{agreement.furthest} by {agreement.largest:.3g}" if agreement.furthest else "they cannot be compared"
