"""View models of the console's pages, from the server's current state. Does no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from semver import Version

from turnout.registry.gates.bump import BumpFinding
from turnout.registry.manifest.manifest import metadata_text
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.explain import Explainer
from turnout.routing.traffic_shares import Share, shares
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.versions.catalog import Catalog, ModelEntry, VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.web.console.recent import ActivityPoint, Recent
from turnout.web.report.colours import version_colours


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version in a table, with its shares of the traffic that the policy splits and its latest activity, if any."""

    entry: VersionEntry
    tags: tuple[str, ...]
    shares: tuple[Share, ...]
    latest: ActivityPoint | None


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model.

    Attributes:
        applied: The policy in force; None if the model never had one.
        versions: All versions, highest first.
        split: The shares of the traffic that are in force, including those of versions that no longer exist.
        diverted: The version that gets all traffic because of an unrecorded rollback; "" if the policy applies.
        answering: The version that answers without a policy; None if there is a policy, or no version is ready.
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
        """Colour number and share of each version that answers requests. The shares sum to 1 if all are answered."""
        answering = [share for share in self.split if share.role is not ServingRole.SHADOW]
        return [(self.colours[share.version], share.applied) for share in answering]


@dataclass(frozen=True, slots=True)
class ModelViews:
    """Provides views of the models. Used on the event loop only.

    `part` describes the worker whose shadows and decisions are shown; "" if there is only one.
    """

    catalog: Catalog
    policies: Policies
    explainer: Explainer
    recent: Recent
    part: str = ""

    def colours(self, name: str, *more: str) -> Mapping[str, int]:
        """Returns the colours of a model's versions and of `more`; only of `more` if the model no longer exists."""
        known = self.catalog.snapshot.models.get(name)
        return version_colours((), *more) if known is None else colours_of(known, *more)

    def view(self, known: ModelEntry) -> ModelView:
        """Returns the view of a model."""
        policies, recent = self.policies, self.recent.of(known.name)
        applied = policies.current.get(known.name)
        split: tuple[Share, ...] = ()
        answering = None
        if applied is not None and applied.state.policy is not None:
            split = tuple(shares(known, applied, applied.state.policy, policies.diverted.get(known.name)))
        else:
            routes = self.explainer.explain(known.name, "", "", baseline_only=False).chances
            answering = next((route.entry.version_text for route in routes), None)
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
        return ModelView(known.name, applied, tuple(rows), split, diverted, answering, colours_of(known, *parts))


def colours_of(known: ModelEntry, *more: str) -> Mapping[str, int]:
    """Returns the colour number of each version of a model, and of `more`, which may no longer exist."""
    return version_colours((entry.version_text for entry in known.versions.values()), *more)


@dataclass(frozen=True, slots=True)
class OverviewTotals:
    """Totals of all models: numbers of versions, and requests and failures per second in the latest sample."""

    versions: int
    ready: int
    failed: int
    rate: float
    failures: float

    @classmethod
    def of(cls, models: Sequence[ModelView]) -> Self:
        """Returns the totals of `models`."""
        rows = [row for model in models for row in model.versions]
        states = [row.entry.state for row in rows]
        points = [row.latest for row in rows if row.latest is not None]
        return cls(
            len(rows), states.count(LifecycleState.READY), states.count(LifecycleState.FAILED),
            sum(point.rate for point in points), sum(point.failures for point in points),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A property in which two versions differ, with both values."""

    subject: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class DifferenceView:
    """The differences between a lower and a higher version.

    `finding` is that of the gate `bump` for `new` over `old`; None if weights and outputs must be compared first.
    """

    old: VersionEntry
    new: VersionEntry
    finding: BumpFinding | None
    facts: tuple[ComparisonRow, ...]


def difference(old: VersionEntry, new: VersionEntry, finding: BumpFinding | None) -> DifferenceView:
    """Returns the differences between a lower and a higher version."""
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
    """Returns the default version to compare with: the next lower one, or the next higher one for the lowest."""
    ordered = list(known.versions)
    lower = dict(pairwise(ordered))
    return lower.get(version) or (ordered[-2] if len(ordered) > 1 else None)
