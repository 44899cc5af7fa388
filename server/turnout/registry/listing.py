"""What a scan of the repository finds: versions, and what stands where versions could and is none."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from turnout.registry.files import explain
from turnout.registry.manifest import MODEL_FILE, Manifest
from turnout.registry.names import is_exact_version


@dataclass(frozen=True, slots=True)
class Published:
    """A version that exists.

    Attributes:
        manifest: What its publisher states.
        digest: `sha256:` of the canonical manifest.
    """

    manifest: Manifest
    digest: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the repository that is no version, where one could be expected.

    Attributes:
        model: Name of the directory that stands where a model's does.
        version: Name of the directory that stands where a version's does; "" where the model's is at fault.
        reason: What is wrong, in one sentence without a path.
        command: What to run to have it published, "" where that would not mend it; holds a path, so not for clients.
        damaged: It is a version, and its manifest cannot be read as one any more.
    """

    model: str
    version: str
    reason: str
    command: str = ""
    damaged: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; publish it with: {self.command}" if self.command else self.reason


@dataclass(frozen=True, slots=True)
class Listing:
    """What the repository held when it was scanned.

    Attributes:
        published: By model name, then by version in ascending order.
        problems: By model and version directory.
        present: False where the root directory does not exist.
    """

    published: tuple[Published, ...] = ()
    problems: tuple[Problem, ...] = ()
    present: bool = True

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that have a version, sorted."""
        return tuple(dict.fromkeys(p.manifest.model for p in self.published))

    def versions(self, model: str) -> tuple[Published, ...]:
        """Returns the versions of `model`, the lowest first; () where there are none."""
        return tuple(p for p in self.published if p.manifest.model == model)


def unpublished(directory: Path, model: str, version: str) -> Problem | None:
    """Describes a directory without a manifest; None for an empty one, which is nobody's loss."""
    if directory.is_symlink():
        return Problem(model, version, f"{model} {version} is a link, and links are not followed")
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        return Problem(model, version, f"{model} {version} {explain(error)}")
    if not names:
        return None
    reason = f"{model} {version} has no manifest and is not served"
    file = next((n for n in names if n == MODEL_FILE), None) or next((n for n in names if n.endswith(".onnx")), None)
    if file is None:
        return Problem(model, version, f"{reason}; it holds no ONNX file")
    return Problem(model, version, reason, _publish_command(directory, model, version, file))


def _publish_command(directory: Path, model: str, version: str, file: str) -> str:
    model_file = directory / MODEL_FILE
    if not is_exact_version(version):
        # Triton and TensorFlow Serving number their directories 1, 2, 3.
        target = f"{version}.0.0" if is_exact_version(f"{version}.0.0") else "VERSION"
        return shlex.join(["turnout", "publish", model, target, str(directory / file)])
    publish = shlex.join(["turnout", "publish", model, version, str(model_file)])
    # A directory becomes a version in place only under the names that versions have.
    return (
        publish if file == MODEL_FILE else f"{shlex.join(['mv', str(directory / file), str(model_file)])} && {publish}"
    )
