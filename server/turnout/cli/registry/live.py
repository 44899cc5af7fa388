"""Lists the versions of a running server. Separate from `survey`, since importing gRPC takes 0.15 s."""

import json
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from turnout.cli.connection import Server
from turnout.cli.output import ServerRefused
from turnout.cli.registry.description import Content, VersionDescription
from turnout.cli.registry.survey import EVENTS, Details
from turnout.cli.releases.event_view import read_event
from turnout.errors import DigestMismatch
from turnout.registry.gates.reports import GateAttestation
from turnout.registry.manifest.digest import bytes_digest, read_canonical
from turnout.registry.publishing.environment_record import SeenEnvironment
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.control_pb2 import ListEventsRequest

if TYPE_CHECKING:
    from turnout.state.event_log.events import Event

_TIMEOUT = 10.0
_NO_REGISTRY = ("Unimplemented", "PermissionDenied")
"""Errors that show that the listener has no registry: the data listener, or no permission."""
_NOT_DESCRIBED = ("DataLoss", "NotFound", "Unavailable")
"""Errors of a registry for a version that is in memory, but whose files or records are damaged or out of reach."""


def survey_server(server: Server) -> list[VersionDescription]:
    """Gets all versions from a running server, grouped by model, highest precedence first."""
    with server.client(_TIMEOUT) as client:
        models = client.models()
    return [VersionDescription.from_server(model, version) for model in models for version in model.versions]


def details_from_server(server: Server, name: str, selector: str | None) -> Details:
    """Gets the model `name` from a running server, and the details of the chosen version from its registry.

    Raises:
        ServerRefused: The model or version does not exist, or no server answers.
        DigestMismatch: The answers of the server's registry contradict each other.
    """
    with server.client(_TIMEOUT) as client:
        model = client.get_model(name)
        wanted = model.default_version if selector is None else client.get_version(name, selector).version
    events = _events(server, name) if selector is None else None
    described = {version.version: VersionDescription.from_server(model, version) for version in model.versions}
    chosen = described.get(wanted)
    if chosen is None:
        return Details(tuple(described.values()), None, events)
    # An error about a version that was not asked for by name must not hide the others.
    lenient = _NO_REGISTRY if selector is not None else (*_NO_REGISTRY, *_NOT_DESCRIBED)
    return Details(tuple(described.values()), _closely(server, chosen, lenient), events)


def _events(server: Server, name: str) -> "tuple[Event, ...] | None":
    """Returns the model's latest changes; None without a log: another listener, no permission, or no state store."""
    try:
        with server.control() as control:
            response = control.ListEvents(ListEventsRequest(model=name, limit=EVENTS), timeout=_TIMEOUT)
    except ServerRefused:  # must not hide what the server says of the model
        return None
    return tuple(read_event(one) for one in response.events)


def _closely(server: Server, version: VersionDescription, lenient: Collection[str]) -> VersionDescription:
    """Adds the details from the server's registry. Adds nothing if the call fails with one of the `lenient` errors."""
    request = pb.DescribeVersionRequest(model=version.model, version=version.version)
    try:
        with server.registry() as registry:
            response = registry.DescribeVersion(request, timeout=_TIMEOUT)
    except ServerRefused as error:
        if error.kind in lenient:
            return version
        raise
    return replace(version, content=_content(response))


def _content(response: pb.DescribeVersionResponse) -> Content:
    if bytes_digest(response.manifest) != response.digest:
        raise DigestMismatch("the server's manifest does not match its digest")
    try:
        evidence_records = EvidenceRecords(
            {one.key: one.worth for one in response.signatures},
            SeenEnvironment.from_json(json.loads(response.environment_json)) if response.environment_json else None,
            tuple(GateAttestation.from_json(json.loads(text)) for text in response.gate_reports_json),
        )
        return Content(read_canonical(response.manifest), evidence_records, response.yank_reason)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DigestMismatch(f"this release of Turnout cannot read the server's answer: {error}") from error
