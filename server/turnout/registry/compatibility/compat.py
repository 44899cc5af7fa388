"""Decides what the difference between two versions means for clients: the smallest legal bump, with reasons.

Without side effects. A version is described by its signature, by the preprocessing and labels that its publisher
declares, and by how equivalent it is to the older version (`turnout.registry.compatibility.model_equivalence`).
Declarations count as follows:

    MAJOR    preprocessing or the labels of an output (or their order) changed, or are no longer declared
    PATCH    they are declared for the first time: no client relied on other values

Signatures count as follows:

    MAJOR    an input that was removed, has another dtype, rank or fixed size, a fixed size that was free, or is
             required but was optional; a new required input; an output that was removed, has another dtype, rank or
             fixed size, a free size that was fixed, or a fixed size that followed an input
    MINOR    an input with a free size that was fixed, or that is optional but was required; a new optional input; a new
             output; an output with a fixed size that was free, if it was not declared to follow an input
    PATCH    none of these

Tensors are identified by name: their order does not matter, and a renamed tensor counts as one removed and one added. A
dtype that can represent all values of the other (float32 for float16) is still another dtype, since the bytes on the
wire differ.

**Symbols.** A dimension named by a symbol and one without a name are both free, regardless of the symbol. Two inputs
that share a symbol look as if their sizes had to be equal. But a shared symbol counts neither as a restriction if it is
new, nor as a relaxation if it was removed:

- It does not restrict clients. Neither `turnout.serving.inputs.validation` nor ONNX Runtime compares the sizes of
  dimensions with the same symbol: ONNX Runtime 1.31 runs a model on `a[n, 2]` and `b[n, 2]` with 3 and 4 rows if its
  nodes allow that. (Requests in which one of two inputs that a model adds or concatenates is empty are refused, but
  that depends on the graph.)
- Its absence does not relax anything. If nodes need equal sizes (`Add(a, b)`), 3 and 4 rows fail whatever the names.
- Exporters differ. tf2onnx names each unknown dimension differently (magika's `unk__122`, `unk__215`), others name all
  of them `batch`, and optimisers drop names. Most such differences are re-exports of the same graph.

So counting shared symbols would refuse safe re-exports, and would catch an unsafe change only by chance. Symbols matter
in one case: if an output of the older version shares a symbol with one of its inputs, clients were promised that its
size follows from what they send, and a fixed size breaks that promise. This depends only on whether symbols of the
older version are equal, so that a change of names alone is never a change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from turnout.registry.manifest.manifest import Manifest
from turnout.registry.manifest.signature import Dimension, Signature, TensorSpec


class VersionBump(IntEnum):
    """The part of a semantic version that a change requires to be raised. More significant parts compare as greater."""

    PATCH = 0
    MINOR = 1
    MAJOR = 2

    def __str__(self) -> str:
        return self.name.lower()

    # IntEnum formats as its number even if str() returns a word.
    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True, slots=True)
class VersionChange:
    """A difference between two versions, and what it means for clients of the older one.

    Attributes:
        subject: What differs, for example `input bytes`.
        bump: Smallest bump that the difference requires.
        reason: Predicate of the subject, for example `takes int32 where float32 was taken`.
    """

    subject: str
    bump: VersionBump
    reason: str

    def __str__(self) -> str:
        return f"{self.subject} {self.reason}"


def signature_changes(old: Signature, new: Signature) -> tuple[VersionChange, ...]:
    """Returns how `new` differs from `old` for clients of `old`; empty if there is no difference for them.

    Inputs come before outputs. On each side, the tensors of `old` come first, in its order, then those that are new. A
    tensor that differs in several ways has one change for each.
    """
    return (*_input_changes(old, new), *_output_changes(old, new))


def declared_changes(old: Manifest, new: Manifest) -> tuple[VersionChange, ...]:
    """Returns the changes of declared labels and preprocessing.

    Removed outputs are left out, since `signature_changes` reports them.
    """
    changes: list[VersionChange] = []
    for spec in old.signature.outputs:
        if new.signature.output(spec.name) is None:
            continue
        subject, was, now = f"labels of {spec.name}", old.labels.get(spec.name), new.labels.get(spec.name)
        if was is not None and now is None:
            changes.append(VersionChange(subject, VersionBump.MAJOR, "are no longer declared"))
        elif was is None and now is not None:
            changes.append(VersionChange(subject, VersionBump.PATCH, "are declared for the first time"))
        elif was is not None and now is not None and was != now:
            changes.append(VersionChange(subject, VersionBump.MAJOR, _label_reason(was, now)))
    if old.preprocessing != new.preprocessing:
        if not old.preprocessing:
            changes.append(VersionChange("preprocessing", VersionBump.PATCH, "is declared for the first time"))
        elif not new.preprocessing:
            changes.append(VersionChange("preprocessing", VersionBump.MAJOR, "is no longer declared"))
        else:
            keys = sorted(old.preprocessing.keys() | new.preprocessing.keys())
            other = [key for key in keys if old.preprocessing.get(key) != new.preprocessing.get(key)]
            changes.append(VersionChange("preprocessing", VersionBump.MAJOR, f"changed: {', '.join(other)}"))
    return tuple(changes)


def required_bump(changes: Sequence[VersionChange]) -> VersionBump:
    """Returns the smallest bump that covers all `changes`; PATCH if there are none."""
    return max((change.bump for change in changes), default=VersionBump.PATCH)


def refusals(baseline: Signature, canary: Signature) -> tuple[str, ...]:
    """Returns the reasons why `canary` cannot answer requests meant for `baseline`; empty if it can.

    Empty means that every request valid for `baseline` is valid for `canary`, and that every output that it may ask for
    has the same name, dtype and rank, and the same size wherever it was fixed.
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
                # Clients that handle any size handle this one. Better shape inference must not count as a change.
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
    """Returns how dimension `axis` differs; None if it does not, as with two free dimensions of any names."""
    match was, now:
        case int(), int():
            return None if was == now else f"dimension {axis} is {now} and was {was}"
        case int(), _:
            return f"dimension {axis} is free and was fixed at {was}"
        case _, int():
            return f"dimension {axis} is fixed at {now} and was free"
        case _:
            return None
