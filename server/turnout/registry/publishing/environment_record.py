"""The environment of this machine, and the record beside a version of that of the machine that published it.

    <root>/<model>/.attestations/<version>/environment.json

The record is observed, not stated by the publisher, so it is not covered by the version's digest.
"""

import ctypes
import json
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from semver import Version

from turnout.registry.manifest.environment import Environment
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.storage import attestations
from turnout.registry.storage.repository import Repository

_FILE = "environment.json"
_DRIVER = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+\.\d+(?:\.\d+)?)")
_CUDNN_PACKAGE = re.compile(r"nvidia[-_.]cudnn[-_.]cu\d+", re.IGNORECASE)
_LIBRARIES = ("numpy", "onnx", "protobuf", "grpcio")


@dataclass(frozen=True, slots=True)
class SeenEnvironment(JsonForm):
    """The environment in which a version was published.

    Attributes:
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
        found = dict(attestations.read(repository, model, exact, _FILE, f"{attestations.IMPORTED}{_FILE}"))
        imported = _FILE not in found
        body = json.loads(found[f"{attestations.IMPORTED}{_FILE}" if imported else _FILE])
        if body["digest"] != digest or body["schema"] != attestations.SCHEMA:
            return None
        return SeenEnvironment.from_json({**body, "imported": imported})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@cache
def this_environment() -> Environment:
    """Returns the environment of this machine, cached. CUDA, cuDNN and driver are those that a session could use."""
    import onnxruntime as ort  # takes long, and reading records does not need it

    driver = _driver()
    return Environment(
        onnxruntime=ort.__version__,
        cuda=(getattr(ort, "cuda_version", "") or "") if driver else "",
        cudnn=_cudnn() if driver else "",
        driver=driver,
        python=platform.python_version(),
    )


def attest_environment(repository: Repository, manifest: Manifest, digest: str) -> None:
    """Records this machine beside a version. Raises OSError if the repository could not be written to."""
    data = attestations.record(
        "environment",
        manifest,
        digest,
        environment=this_environment().to_json(),
        platform=f"{platform.system()} {platform.machine()}",
        libraries=_libraries(),
    )
    attestations.write(repository, manifest.model, manifest.version, _FILE, data)


@cache
def _libraries() -> dict[str, str]:
    """Returns the versions of packages, cached: reading them took a third of the time to publish a small model."""
    found = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _driver() -> str:
    try:
        found = _DRIVER_VERSION.search(_DRIVER.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def _cudnn() -> str:
    for package in distributions():
        if _CUDNN_PACKAGE.fullmatch(package.metadata["Name"] or ""):
            return package.version
    try:
        number = int(ctypes.CDLL("libcudnn.so.9").cudnnGetVersion())
    except (OSError, AttributeError):
        return ""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"  # 91002 is 9.10.2
