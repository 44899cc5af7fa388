"""A model to publish, as it is on this machine."""

from dataclasses import dataclass, field
from pathlib import Path

from turnout.registry.publishing.metadata import VersionMetadata


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine, perhaps in a temporary directory.

    Attributes:
        path: The ONNX file, with its external data beside it.
        metadata: Metadata from its source.
    """

    path: Path
    metadata: VersionMetadata = field(default_factory=VersionMetadata)
