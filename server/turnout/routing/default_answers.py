"""Which versions answer requests that pin no version: plain requests, `latest` and ranges. Pure.

The policy determines which versions answer plain requests; release statuses determine which can be reached by range and
by `latest`. Every command that changes one of the two reports the result with these functions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from semver import Version

from turnout.registry.manifest.versions import precedence
from turnout.routing.policy import UNITS, Policy
from turnout.routing.rollback import default_version
from turnout.routing.selection.ranges import Range
from turnout.routing.selection.selector import LATEST
from turnout.state.release_status import ReleaseStatus
from turnout.text.shares import share_text

_RANGES_IN_TEXT = 4


@dataclass(frozen=True, slots=True)
class SelectorPart:
    """One version's part in answering a selector.

    Attributes:
        weight: Share of the requests, 1 to `UNITS`.
        rollout: Attempt of the rollout that sends the share to it; 0 if none.
    """

    version: Version
    weight: int = UNITS
    canary: bool = False
    rollout: int = 0


@dataclass(frozen=True, slots=True)
class SelectorAnswer:
    """The versions that answer one selector.

    Attributes:
        selector: The selector as a client writes it; "" for a plain request.
        parts: Versions and their shares, the baseline first; empty if none answers.
    """

    selector: str
    parts: tuple[SelectorPart, ...]


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """The versions that answer each selector.

    Attributes:
        selectors: Plain requests, `latest`, and then the caret range of each line of compatible versions, highest
            first.
        notes: Further information, one sentence each.
    """

    selectors: tuple[SelectorAnswer, ...]
    notes: tuple[str, ...] = ()

    @property
    def plain(self) -> tuple[SelectorPart, ...]:
        """The versions that answer plain requests."""
        return next((one.parts for one in self.selectors if not one.selector), ())

    @property
    def latest(self) -> Version | None:
        """The version that answers `latest`: the highest released one; None if nothing is released."""
        parts = next((one.parts for one in self.selectors if one.selector == LATEST), ())
        return parts[0].version if parts else None


def answers_of(
    policy: Policy | None, statuses: Mapping[Version, ReleaseStatus], rollouts: Mapping[Version, int] | None = None
) -> RoutingTable:
    """Returns the versions that answer each selector. A version without a release status is a candidate. `rollouts` is,
    by version, the attempt of the running rollout that sends it its share.
    """
    released = sorted((v for v, s in statuses.items() if s is ReleaseStatus.RELEASED), key=precedence, reverse=True)
    default = default_version(statuses)
    by = rollouts or {}
    plain = _whole(default) if policy is None else _split(policy, None, by)
    found = [SelectorAnswer("", plain), SelectorAnswer(LATEST, _whole(default))]
    lines = released if policy is None else [*released, policy.baseline]
    for text in _carets(lines):
        wanted = Range.parse(text)
        if policy is not None and wanted.satisfied_by(policy.baseline):
            parts = _split(policy, wanted, by)
        else:
            parts = _whole(next((v for v in released if wanted.satisfied_by(v)), None))
        found.append(SelectorAnswer(text, parts))
    return RoutingTable(tuple(found))


def standing_in(declared: RoutingTable, here: RoutingTable, states: Mapping[Version, str]) -> tuple[str, ...]:
    """Describes where a server still answers differently because it has not loaded a version, one sentence each.

    `declared` are the versions that are to answer, `here` those that answer on this server, and `states` describe
    lifecycle states.
    """
    able = {one.selector: one.parts for one in here.selectors}
    found: dict[tuple[Version, str], list[str]] = {}
    for one in declared.selectors:
        instead = able.get(one.selector, ())
        if one.parts and one.parts != instead:
            name = "plain requests" if not one.selector else one.selector
            found.setdefault((one.parts[0].version, parts_text(instead)), []).append(name)
    return tuple(
        f"{version} is {states.get(version, 'not there')} here, so {_enumerated(names)} "
        f"{'gets' if len(names) == 1 and names[0] != 'plain requests' else 'get'} {instead}"
        for (version, instead), names in found.items()
    )


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def answers_text(answers: RoutingTable) -> str:
    """Formats the versions that answer each selector, on one line."""
    displayed = [
        f"{'plain requests' if not s.selector else s.selector}: {parts_text(s.parts)}" for s in answers.selectors
    ]
    most = 2 + _RANGES_IN_TEXT
    more = f"; and {len(displayed) - most} more ranges" if len(displayed) > most else ""
    return "; ".join(displayed[:most]) + more + "".join(f"; {note}" for note in answers.notes)


def parts_text(parts: Iterable[SelectorPart]) -> str:
    """Formats the versions that answer a selector: `1.2.0 (95%), 1.3.0 (5%, canary of rollout 3)`."""
    several = tuple(parts)
    if len(several) == 1 and not several[0].canary:
        return str(several[0].version)
    return ", ".join(f"{p.version} ({share_text(p.weight / UNITS)}{_role(p)})" for p in several) or "no version"


def _role(part: SelectorPart) -> str:
    if not part.canary:
        return ""
    return f", canary of rollout {part.rollout}" if part.rollout else ", canary"


def _whole(version: Version | None) -> tuple[SelectorPart, ...]:
    return () if version is None else (SelectorPart(version),)


def _split(policy: Policy, wanted: Range | None, rollouts: Mapping[Version, int]) -> tuple[SelectorPart, ...]:
    canaries = [c for c in policy.canaries if c.weight and (wanted is None or wanted.satisfied_by(c.version))]
    left = UNITS - sum(c.weight for c in canaries)
    baseline = (SelectorPart(policy.baseline, left),) if left else ()
    return (*baseline, *(SelectorPart(c.version, c.weight, True, rollouts.get(c.version, 0)) for c in canaries))


def _carets(versions: Iterable[Version]) -> Iterator[str]:
    """Yields the caret range of each line of compatible versions, highest first."""
    found: dict[tuple[int, ...], None] = {}
    for version in versions:
        if version.prerelease is not None:
            continue
        core = (version.major, version.minor, version.patch)
        first = next((place for place, number in enumerate(core) if number), len(core) - 1)
        found[core[: first + 1]] = None
    for line in sorted(found, reverse=True):
        yield "^" + ".".join(map(str, line))
