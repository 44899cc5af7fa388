"""The values that the pages show, from one snapshot of the server. Does no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from semver import Version

from turnout.registry.gates.bump import BumpFinding
from turnout.registry.manifest.manifest import metadata_text
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.traffic_shares import Share, shares
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.versions.catalog import ModelEntry, VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.web.console.recent import ActivityPoint
from turnout.web.report.colours import version_colours


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version in a list.

    Attributes:
        shares: Its parts of the traffic that the policy splits.
        latest: Its recent activity; None if nothing is known yet.
    """

    entry: VersionEntry
    tags: tuple[str, ...]
    shares: tuple[Share, ...]
    latest: ActivityPoint | None


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model.

    Attributes:
        applied: The policy in force; None if it never had one.
        versions: The highest first.
        split: Every part of the traffic, as in force; also of versions that have left the repository.
        diverted: The version that gets all of the traffic instead of the policy's; "" if the policy applies.
        answering: The version that answers if there is no policy; None if none does, or a policy decides.
        colours: The number of each version's colour.
    """

    name: str
    applied: AppliedPolicy | None
    versions: tuple[VersionRow, ...]
    split: tuple[Share, ...]
    diverted: str
    answering: str | None
    colours: Mapping[str, int]

    @property
    def pieces(self) -> list[tuple[int, float]]:
        """The parts of the traffic that get answers, by colour; they sum to 1 if every request gets one."""
        answering = [share for share in self.split if share.role is not ServingRole.SHADOW]
        return [(self.colours[share.version], share.applied) for share in answering]


def model_view(
    known: ModelEntry, policies: Policies, recent: Mapping[str, Sequence[ActivityPoint]], answering: str | None = None
) -> ModelView:
    """Returns what is to be seen of a model."""
    applied = policies.current.get(known.name)
    split: tuple[Share, ...] = ()
    if applied is not None and applied.state.policy is not None:
        split = tuple(shares(known, applied, applied.state.policy, policies.diverted.get(known.name)))
    parts: dict[str, list[Share]] = {}
    for share in split:
        parts.setdefault(share.version, []).append(share)
    rows = [
        VersionRow(
            entry,
            tuple(sorted(tag for tag, named in known.model_releases.tags.items() if named == version)),
            tuple(parts.get(entry.version_text, ())),
            recent[entry.version_text][-1] if recent.get(entry.version_text) else None,
        )
        for version, entry in known.versions.items()
    ]
    diverted = str(policies.diverted.get(known.name, ""))
    colours = colours_of(known, *parts)
    return ModelView(known.name, applied, tuple(rows), split, diverted, answering, colours)


def colours_of(known: ModelEntry, *more: str) -> Mapping[str, int]:
    """Returns the colour number of each version of a model, and of others that it may no longer have."""
    return version_colours((entry.version_text for entry in known.versions.values()), *more)


@dataclass(frozen=True, slots=True)
class OverviewTotals:
    """All models in five numbers.

    Attributes:
        versions, ready, failed: Numbers of all versions, of those that are ready, and of those that failed to load.
        rate, failures: Requests and failures a second, in the latest sample.
    """

    versions: int
    ready: int
    failed: int
    rate: float
    failures: float

    @classmethod
    def of(cls, models: Sequence[ModelView]) -> Self:
        """Sums up the models."""
        rows = [row for model in models for row in model.versions]
        states = [row.entry.state for row in rows]
        points = [row.latest for row in rows if row.latest is not None]
        return cls(
            len(rows), states.count(LifecycleState.READY), states.count(LifecycleState.FAILED),
            sum(point.rate for point in points), sum(point.failures for point in points),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One line of a comparison of two versions."""

    subject: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class DifferenceView:
    """How one version differs from another.

    Attributes:
        old, new: The lower and the higher of the two.
        finding: The gate `bump`'s finding for the higher over the lower; None before weights and answers were examined.
        facts: Other differences.
    """

    old: VersionEntry
    new: VersionEntry
    finding: BumpFinding | None
    facts: tuple[ComparisonRow, ...]


def difference(old: VersionEntry, new: VersionEntry, finding: BumpFinding | None) -> DifferenceView:
    """Returns how the higher of two versions differs from the lower."""
    facts = [ComparisonRow(subject, a, b) for subject, a, b in _facts(old, new) if a != b]
    return DifferenceView(old, new, finding, tuple(facts))


def _facts(old: VersionEntry, new: VersionEntry) -> list[tuple[str, str, str]]:
    pairs = [
        ("size in bytes", f"{old.manifest.size:,}", f"{new.manifest.size:,}"),
        ("opset", _opset(old), _opset(new)),
        ("IR version", str(old.manifest.ir_version), str(new.manifest.ir_version)),
        ("batching", old.batching or "not loaded", new.batching or "not loaded"),
        ("isolation", old.isolation or "not loaded", new.isolation or "not loaded"),
        ("release status", str(old.release_status), str(new.release_status)),
    ]
    before, after = ({f.path: f.digest[:19] for f in entry.manifest.files} for entry in (old, new))
    pairs += [(path, before.get(path, "not there"), after.get(path, "not there")) for path in sorted(before | after)]
    before_metadata, after_metadata = old.manifest.metadata, new.manifest.metadata
    keys = sorted({*before_metadata, *after_metadata})
    pairs += [(key, _stated(before_metadata, key), _stated(after_metadata, key)) for key in keys]
    return pairs


def _stated(metadata: Mapping[str, Any], key: str) -> str:
    return metadata_text(metadata[key]) if key in metadata else "not stated"


def _opset(entry: VersionEntry) -> str:
    return ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(entry.manifest.opset.items()))


def neighbour(known: ModelEntry, version: Version) -> Version | None:
    """Returns the version to compare one with by default: the next lower, or for the lowest the next higher."""
    ordered = list(known.versions)
    lower = dict(pairwise(ordered))
    return lower.get(version) or (ordered[-2] if len(ordered) > 1 else None)
