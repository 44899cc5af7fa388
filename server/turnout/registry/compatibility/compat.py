"""What one version's difference from another means for clients: the smallest legal bump, with reasons. Pure.

A version is described by its signature, by what its publisher declares of preprocessing and labels, and by how much it
is the older one in another form (`turnout.registry.compatibility.model_equivalence`). What is declared counts so:

    MAJOR    preprocessing or an output's labels (or their order) changed, or are no longer declared
    PATCH    they are declared for the first time: nobody relied on anything else

What two signatures decide:

    MAJOR    an input that is gone, has another dtype, rank or fixed size, a fixed size that was free, or is required
             and was optional; a new input that is required; an output that is gone, has another dtype, rank or fixed
             size, a free size that was fixed, or a fixed size that grew with an input
    MINOR    an input whose fixed size became free, or that may be left out now; a new input that may be; a new output;
             an output whose free size became fixed, if it was not stated to grow with an input
    PATCH    none of these

Tensors are known by name: their order is no difference, and a renamed one is one gone and one new. A dtype that holds
all values of the other (float32 for float16) is another dtype all the same, since the bytes on the wire are others.

**Symbols.** A dimension named by a symbol and one with no name are both free, whatever the symbol. Two inputs that
share a symbol look as if their sizes had to agree, but that is not counted, neither as a narrowing if it is new nor
as a widening if it is gone:

- It is no constraint. Neither `turnout.serving.inputs.validation` nor ONNX Runtime compares sizes across dimensions of
  one symbol: 1.31 runs a model on `a[n, 2]` and `b[n, 2]` with 3 and 4 rows if its nodes allow that.
- Without it, nothing is allowed that was not before. If nodes need equal sizes (`Add(a, b)`), 3 and 4 rows fail in any
  case.
- Exporters differ in it. tf2onnx gives each unknown dimension a name of its own (magika's `unk__122`, `unk__215`),
  others call all of them `batch`, optimisers drop names: most such differences are re-exports of the same graph.

So counting it would refuse safe re-exports and catch no unsafe change that the names do not happen to show. One use of
symbols is left, on the other side: where the older version's output shares a symbol with one of its inputs, clients
were told that its size follows from what they send, and a fixed size there breaks that. Only the older version's
symbols are read for it, and only whether they are equal, so a change of names alone is never a change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from turnout.registry.manifest.manifest import Manifest
from turnout.registry.manifest.signature import Dimension, Signature, TensorSpec


class VersionBump(IntEnum):
    """The part of a semantic version that a change obliges its publisher to raise; the greater part is the greater."""

    PATCH = 0
    MINOR = 1
    MAJOR = 2

    def __str__(self) -> str:
        return self.name.lower()

    # IntEnum formats as its number even where str() gives a word.
    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True, slots=True)
class VersionChange:
    """One difference between two versions, and what it means for clients of the older.

    Attributes:
        subject: What differs, for example `input bytes`.
        bump: What it obliges to.
        reason: What is said of the subject, for example `takes int32 where float32 was taken`.
    """

    subject: str
    bump: VersionBump
    reason: str

    def __str__(self) -> str:
        return f"{self.subject} {self.reason}"


def signature_changes(old: Signature, new: Signature) -> tuple[VersionChange, ...]:
    """Returns how `new` differs from `old` for clients of `old`; empty if they cannot tell the two apart.

    Inputs come before outputs; on each side those of `old` in its order, then the new ones in theirs. A tensor that
    differs in several ways has a change for each.
    """
    return (*_input_changes(old, new), *_output_changes(old, new))


def declared_changes(old: Manifest, new: Manifest) -> tuple[VersionChange, ...]:
    """Returns what changed in what publishers declare of labels and preprocessing; outputs that went are left out,
    since the signature tells of them.
    """
    changes: list[VersionChange] = []
    for spec in old.signature.outputs:
        if new.signature.output(spec.name) is None:
            continue
        subject, was, now = f"labels of {spec.name}", old.labels.get(spec.name), new.labels.get(spec.name)
        if was is not None and now is None:
            changes.append(VersionChange(subject, VersionBump.MAJOR, "are declared no more"))
        elif was is None and now is not None:
            changes.append(VersionChange(subject, VersionBump.PATCH, "are declared for the first time"))
        elif was is not None and now is not None and was != now:
            changes.append(VersionChange(subject, VersionBump.MAJOR, _label_reason(was, now)))
    if old.preprocessing != new.preprocessing:
        if not old.preprocessing:
            changes.append(VersionChange("preprocessing", VersionBump.PATCH, "is declared for the first time"))
        elif not new.preprocessing:
            changes.append(VersionChange("preprocessing", VersionBump.MAJOR, "is declared no more"))
        else:
            keys = sorted(old.preprocessing.keys() | new.preprocessing.keys())
            other = [key for key in keys if old.preprocessing.get(key) != new.preprocessing.get(key)]
            changes.append(VersionChange("preprocessing", VersionBump.MAJOR, f"changed: {', '.join(other)}"))
    return tuple(changes)


def required_bump(changes: Sequence[VersionChange]) -> VersionBump:
    """Returns the smallest bump that all of `changes` allow; PATCH if there are none."""
    return max((change.bump for change in changes), default=VersionBump.PATCH)


def refusals(baseline: Signature, canary: Signature) -> tuple[str, ...]:
    """Returns why `canary` cannot answer requests meant for `baseline`, a reason each; empty if it can.

    Empty means that every request valid for `baseline` is valid for `canary`, and that all that it may ask for comes
    back under the same name, in the same dtype and rank, and in every size that was fixed.
    """
    return tuple(str(change) for change in signature_changes(baseline, canary) if change.bump is VersionBump.MAJOR)


def _input_changes(old: Signature, new: Signature) -> Iterator[VersionChange]:
    for before in old.inputs:
        subject = f"input {before.name}"
        after = new.input(before.name)
        if after is None:
            yield VersionChange(subject, VersionBump.MAJOR, "is gone")
            continue
        if after.dtype != before.dtype:
            yield VersionChange(subject, VersionBump.MAJOR, f"takes {after.dtype} where {before.dtype} was taken")
        if rank := _rank_change(subject, before, after):
            yield rank
        else:
            for axis, (was, now) in enumerate(zip(before.shape, after.shape, strict=True)):
                if reason := _size_reason(axis, was, now):
                    yield VersionChange(
                        subject, VersionBump.MAJOR if isinstance(now, int) else VersionBump.MINOR, reason
                    )
        if before.has_default and not after.has_default:
            yield VersionChange(subject, VersionBump.MAJOR, "is required and could be left out before")
        elif after.has_default and not before.has_default:
            yield VersionChange(subject, VersionBump.MINOR, "may be left out and was required before")
    for after in new.inputs:
        if old.input(after.name) is None:
            subject = f"input {after.name}"
            if after.has_default:
                yield VersionChange(subject, VersionBump.MINOR, "is new and may be left out")
            else:
                yield VersionChange(subject, VersionBump.MAJOR, "is required and was not there before")


def _output_changes(old: Signature, new: Signature) -> Iterator[VersionChange]:
    symbols = {size for spec in old.inputs for size in spec.shape if isinstance(size, str)}
    for before in old.outputs:
        subject = f"output {before.name}"
        after = new.output(before.name)
        if after is None:
            yield VersionChange(subject, VersionBump.MAJOR, "is gone")
            continue
        if after.dtype != before.dtype:
            yield VersionChange(subject, VersionBump.MAJOR, f"gives {after.dtype} where {before.dtype} was given")
        if rank := _rank_change(subject, before, after):
            yield rank
            continue
        for axis, (was, now) in enumerate(zip(before.shape, after.shape, strict=True)):
            if isinstance(was, str) and was in symbols and isinstance(now, int):
                yield VersionChange(
                    subject, VersionBump.MAJOR, f"dimension {axis} is fixed at {now} and grew with an input"
                )
            elif reason := _size_reason(axis, was, now):
                # Who reads any size reads this one; shape inference that got better says no less than before.
                yield VersionChange(subject, VersionBump.MAJOR if isinstance(was, int) else VersionBump.MINOR, reason)
    for after in new.outputs:
        if old.output(after.name) is None:
            yield VersionChange(f"output {after.name}", VersionBump.MINOR, "is new")


def _label_reason(was: Sequence[str], now: Sequence[str]) -> str:
    if set(was) == set(now):
        return "are the same in another order"
    gone, new = sorted(set(was) - set(now)), sorted(set(now) - set(was))
    parts = [f"{len(gone)} are gone ({', '.join(gone[:3])})"] if gone else []
    parts += [f"{len(new)} are new ({', '.join(new[:3])})"] if new else []
    return "changed: " + ", ".join(parts)


def _rank_change(subject: str, before: TensorSpec, after: TensorSpec) -> VersionChange | None:
    was, now = len(before.shape), len(after.shape)
    return None if was == now else VersionChange(subject, VersionBump.MAJOR, f"has rank {now} and had rank {was}")


def _size_reason(axis: int, was: Dimension, now: Dimension) -> str | None:
    """Says how dimension `axis` differs; None if it does not, as between free ones of any name."""
    match was, now:
        case int(), int():
            return None if was == now else f"dimension {axis} is {now} and was {was}"
        case int(), _:
            return f"dimension {axis} is free and was fixed at {was}"
        case _, int():
            return f"dimension {axis} is fixed at {now} and was free"
        case _:
            return None
