"""A model that `turnout publish` takes, once it lies on this machine."""

from dataclasses import dataclass, field
from pathlib import Path

from turnout.registry.publishing.metadata import VersionMetadata


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that lies on this machine, at least for now.

    Attributes:
        path: The ONNX file; its external data lies beside it.
        metadata: What is known of it where it came from.
    """

    path: Path
    metadata: VersionMetadata = field(default_factory=VersionMetadata)
