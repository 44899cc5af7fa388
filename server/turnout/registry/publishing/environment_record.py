"""The environment of the machine that published a version, as recorded beside the version.

    <root>/<model>/.attestations/<version>/environment.json

It is observed, not stated by the publisher, so it is not covered by the version's digest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semver import Version

from turnout.registry.manifest.environment import Environment
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.storage import attestations
from turnout.registry.storage.repository import Repository

ENVIRONMENT_FILE = "environment.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class SeenEnvironment(JsonForm):
    """The environment in which a version was published.

    Attributes:
        digest: Digest of the version.
        time: When it was recorded, in RFC 3339.
        environment: Software that publishers can also declare.
        platform: Operating system and processor.
        turnout: Release of Turnout.
        libraries: Versions of other packages involved, by name.
        imported: Whether it came with the version from another repository.
    """

    digest: str
    time: str
    environment: Environment
    platform: str
    turnout: str
    libraries: Mapping[str, str]
    imported: bool = False


def recorded_environment(repository: Repository, model: str, exact: Version, digest: str) -> SeenEnvironment | None:
    """Returns the recorded environment of the version with this digest; None if there is no readable record."""
    try:
        found = attestations.read(repository, model, exact, "")
        imported = ENVIRONMENT_FILE not in found
        body = json.loads(found[f"{attestations.IMPORTED}{ENVIRONMENT_FILE}" if imported else ENVIRONMENT_FILE])
        return _read(body, imported=imported) if body["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _read(body: Mapping[str, Any], *, imported: bool) -> SeenEnvironment:
    if body["schema"] != SCHEMA:
        raise ValueError(f"schema {body['schema']}")
    return SeenEnvironment.from_json({**body, "imported": imported})
