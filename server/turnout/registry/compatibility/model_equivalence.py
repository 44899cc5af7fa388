"""Whether two versions of one signature are the same model in another form: what tells a PATCH from a MINOR. Pure.

The same model means the same weights and the same answers. Neither alone will do: the same weights under another
activation answer otherwise, and another training may answer all of a few examples alike.

Weights are the same where their contents are, as multisets, whatever they are called and in whatever order they stand:
as they are stored; or, since optimisers fold, fuse and transpose them, after ONNX Runtime has optimised both files in
the same way. Where that cannot be had, for the size of the model, answers that are close on many examples stand in.
"""

from dataclasses import dataclass
from enum import Enum, auto

from turnout.registry.compatibility.agreement import Agreement
from turnout.registry.compatibility.compat import Bump, Change

ENOUGH_EXAMPLES = 8
"""Examples on which answers have to be close where weights cannot be compared."""


class Kinship(Enum):
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
class Likeness:
    """What is known about two versions of one signature.

    Attributes:
        kinship: Of their weights.
        same_operators: Operators and attributes are the same, as multisets.
        tensors: Weights of the newer version.
        changed: Of these, how many the older has not, as stored.
        agreement: Of their answers; None where nothing was run.
    """

    kinship: Kinship
    same_operators: bool = False
    tensors: int = 0
    changed: int = 0
    agreement: Agreement | None = None

    @property
    def ran(self) -> bool:
        """Both answered an example."""
        return self.agreement is not None and self.agreement.examples > 0


def likeness_changes(likeness: Likeness) -> tuple[Change, ...]:
    """Returns what the difference between two versions of one signature means; empty for the same files."""
    match likeness.kinship:
        case Kinship.SAME_FILES:
            return ()
        case Kinship.OTHERS:
            count = f"{likeness.changed} of {likeness.tensors} tensors" if likeness.changed else "tensors"
            return (Change("weights", Bump.MINOR, f"are others ({count} changed)"),)
        case Kinship.UNKNOWN:
            return (_by_answers(likeness),)
        case Kinship.SAME_AS_STORED:
            return (_same_weights(likeness, "are the same tensors"),)
        case Kinship.SAME_OPTIMISED:
            return (_same_weights(likeness, "are the same once both files are optimised alike"),)


def _same_weights(likeness: Likeness, said: str) -> Change:
    agreement = likeness.agreement
    if agreement is None or not likeness.ran:
        if likeness.same_operators:
            return Change("weights", Bump.PATCH, f"{said}, and so are the operators; nothing was run")
        return Change("operators", Bump.MINOR, "are others, and nothing was run that would show the same answers")
    if agreement.within:
        return Change("weights", Bump.PATCH, f"{said}, and {_told(agreement)} are answered within tolerance")
    return Change("answers", Bump.MINOR, f"differ, though the weights are the same: {_furthest(agreement)}")


def _by_answers(likeness: Likeness) -> Change:
    agreement = likeness.agreement
    if agreement is not None and agreement.close and agreement.within and agreement.examples >= ENOUGH_EXAMPLES:
        return Change("weights", Bump.PATCH, f"are stored otherwise, and {_told(agreement)} are answered closely")
    return Change("weights", Bump.MINOR, "are others as stored, and nothing shows that they answer the same")


def _told(agreement: Agreement) -> str:
    synthetic = agreement.examples - agreement.golden
    parts = [f"{agreement.golden} golden cases"] if agreement.golden else []
    parts += [f"{synthetic} synthetic inputs"] if synthetic else []
    return " and ".join(parts)


def _furthest(agreement: Agreement) -> str:
    return f"{agreement.furthest} by {agreement.largest:.3g}" if agreement.furthest else "they cannot be compared"
