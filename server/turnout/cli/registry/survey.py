"""Lists the versions on the disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnout.cli.registry.description import VersionDescription
from turnout.cli.workspace import ModelVersions, Workspace
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import Problem
from turnout.routing.selection.selector import parse

if TYPE_CHECKING:  # imports SQLAlchemy, which is not needed to ask a server
    from turnout.state.event_log.events import Event

EVENTS = 10
"""Number of a model's latest changes that are shown with it."""


@dataclass(frozen=True, slots=True)
class Details:
    """One model in detail.

    Attributes:
        versions: All versions, highest precedence first.
        chosen: Version that the selector names; None if no selector was given and there is no default version.
        events: The latest changes, newest first; None if a server does not tell them.
    """

    versions: tuple[VersionDescription, ...]
    chosen: VersionDescription | None
    events: "tuple[Event, ...] | None"


def model_json(versions: Sequence[VersionDescription]) -> dict[str, Any]:
    """Returns the versions of one model as JSON values."""
    default = next((version.version for version in versions if version.default), None)
    return {
        "name": versions[0].model,
        "default_version": default,
        "versions": [version.to_json() for version in versions],
    }


def survey_disk(workspace: Workspace) -> tuple[list[VersionDescription], Sequence[Problem]]:
    """Returns all versions, grouped by model, highest precedence first; and what the repository has beside them."""
    listing, release_state = workspace.scan(), workspace.release_state()
    baselines = workspace.baselines()
    known = [ModelVersions.of(name, listing, release_state, baselines.get(name)) for name in listing.models]
    versions = [
        VersionDescription.from_disk(published, release_state.of(model.name), model.default)
        for model in known
        for published in model.published.values()
    ]
    return versions, listing.problems


def details_from_disk(workspace: Workspace, name: str, selector: str | None) -> Details:
    """Reads the details of the model `name`.

    Raises:
        ModelNotFound, VersionNotFound: The model does not exist, or the selector matches none of its versions.
        InvalidSelector: The selector cannot be parsed.
    """
    release_state = workspace.release_state()
    with workspace.named():
        model = ModelVersions.of(name, workspace.scan(), release_state, workspace.baselines().get(name))
        chosen = model.default if selector is None else model.resolve(parse(selector)).manifest.version
    trust = Trust.of(workspace.settings.for_model(name).signing)
    described = {
        version: VersionDescription.from_disk(
            published, release_state.of(name), model.default, EvidenceRecords.of(workspace.repository, published, trust)
        )
        for version, published in model.published.items()
    }
    events: tuple[Event, ...] = ()
    if release_state.revision:
        with workspace.store() as store:
            events = tuple(store.events(name, limit=EVENTS))
    return Details(tuple(described.values()), None if chosen is None else described[chosen], events)
