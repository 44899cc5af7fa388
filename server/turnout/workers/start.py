"""The data that a worker receives from its supervisor when it starts."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from turnout.config import Settings, SettingsSource
from turnout.workers.division import share_of

_PORTS = ("grpc", "http", "control")


class Start(BaseModel):
    """The data that a worker receives when it starts. Neither its text nor an error of its validation has a value.

    Attributes:
        settings: The worker's settings, with the server's ports and the worker's share of divided limits.
        given: The server's settings as read at its start.
        source: Source from which to read the settings again.
        index: Index of the worker, starting at 0.
        control: Whether the worker has the control listener.
        waits: Whether the worker accepts connections only after its versions are loaded, because other workers accept
            connections in the meantime.
        session_key: Signs the console's sessions: a browser's connections reach any worker.
    """

    # Only a supervisor and its workers need the validator, which takes long to build.
    model_config = ConfigDict(frozen=True, defer_build=True, hide_input_in_errors=True)

    settings: Settings = Field(repr=False)
    given: Settings = Field(repr=False)
    source: SettingsSource = Field(repr=False)  # flags may contain the password of a database
    index: int
    control: bool
    waits: bool
    session_key: SecretStr

    def encode(self) -> bytes:
        """Returns the data as JSON with its secrets in plain text, for the private socket pair and nothing else."""
        return json.dumps(self.model_dump(exclude_unset=True), default=_in_plain_text).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Start":
        """Returns the data that `encode` encoded."""
        return cls.model_validate(json.loads(data))

    def read(self) -> Settings:
        """Reads the settings again, and returns those of this worker, with its ports and its share of the limits.

        Raises:
            ConfigError: The settings are invalid.
        """
        fresh = self.source.read()
        unchanged = [name for name in _PORTS if getattr(fresh, name) == getattr(self.given, name)]
        same = {name: getattr(self.settings, name) for name in unchanged}
        share = share_of(fresh.model_copy(update=same | {"workers": self.given.workers}), self.index)
        return share.model_copy(update={"workers": fresh.workers})


def _in_plain_text(value: Any) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case Path():
            return str(value)
    raise TypeError(f"expected a value that JSON or a setting's own serializer knows, got {type(value).__name__}")
