"""The folders in which TensorRT keeps engines and timings between loads (`tensorrt_cache` says where), on this machine.

An engine is code that TensorRT runs: whoever may write one there has the server run it. So the folders are the server's
own, and one that others may write to is refused.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from turnout.config import Runtime
from turnout.errors import ConfigError
from turnout.serving.sessions.cuda_driver import CudaDevice, cuda_driver
from turnout.serving.sessions.providers import tensorrt_version
from turnout.serving.tensorrt.cache import TensorrtCache
from turnout.serving.tensorrt.precision_record import PrecisionRecord

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class EngineCache:
    """The folders of one version on one device; they are there.

    Attributes:
        paths: Of them.
    """

    paths: TensorrtCache

    @classmethod
    def open(cls, root: str, digest: str, device: CudaDevice) -> "EngineCache":
        """Makes the folders.

        Args:
            root: Path of a folder on a local disk.
            digest: Of the version.
            device: That it will run on.

        Raises:
            ConfigError: They cannot be made, are another user's, or others may write to them.
        """
        top = Path(root).absolute()
        paths = TensorrtCache.of(str(top), digest, device.name, device.capability, ort.__version__, tensorrt_version())
        for folder in map(Path, (paths.engines_in(fp16=False), paths.engines_in(fp16=True), paths.timings)):
            try:
                top.parent.mkdir(parents=True, exist_ok=True)
                for path in reversed([folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]):
                    path.mkdir(mode=0o700, exist_ok=True)  # each by itself: `parents` goes by the umask
                    _refuse_if_shared(path, path.stat())
            except OSError as error:
                raise ConfigError(f"[runtime] tensorrt_cache: {error.strerror}: {folder}") from error
        with contextlib.suppress(OSError):  # a read-only disk: nothing is removed from that either
            os.utime(_engines(top) / _name(digest))
        return cls(paths)

    def record(self, settings: Mapping[str, str]) -> PrecisionRecord:
        """Returns where it is kept whether FP16 is exact enough under settings."""
        return PrecisionRecord(Path(self.paths.precision), settings)

    def clear(self, *, fp16: bool) -> bool:
        """Removes the engines of one precision, such as damaged ones; tells whether there were any."""
        folder = Path(self.paths.engines_in(fp16=fp16))
        removed = False
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                path.unlink()
                removed = True
        return removed


def engine_caches(digest: str, runtime: Runtime) -> Mapping[int, EngineCache]:
    """Opens the folders of a version's engines by device. Raises ConfigError."""
    if not runtime.tensorrt_cache:
        return {}
    found = {device.index: device for device in cuda_driver().devices}
    return {
        index: EngineCache.open(runtime.tensorrt_cache, digest, found[index])
        for index in runtime.device_ids
        if index in found  # of another the session says what is wrong
    }


def provider_options(cache: EngineCache | None, *, fp16: bool) -> Mapping[str, str]:
    """Returns the options of ONNX Runtime's TensorRT provider for engines of one precision, kept in `cache` if any."""
    precision = {"trt_fp16_enable": str(fp16)}  # said in either case: variables of the environment may set it as well
    return {**({} if cache is None else cache.paths.options(fp16=fp16)), **precision}


def forget(root: str, digest: str) -> None:
    """Removes the engines of a version, on all devices."""
    shutil.rmtree(_engines(Path(root).absolute()) / _name(digest), ignore_errors=True)


def keep_within(root: str, most: int, but: Collection[str]) -> list[str]:
    """Removes engines of the versions that were loaded least recently until those left take `most` bytes.

    Args:
        root: Path of the folder.
        most: Bytes.
        but: Digests of versions whose engines stay.

    Returns:
        The digests of the versions whose engines were removed.
    """
    top, kept = _engines(Path(root).absolute()), {_name(digest) for digest in but}
    try:
        found = [(path.stat().st_mtime, path.name, _bytes(path)) for path in top.iterdir()]
    except OSError:
        return []
    left, removed = sum(size for _, _, size in found), []
    for _, name, size in sorted(found):
        if left <= most:
            break
        if name not in kept:
            shutil.rmtree(top / name, ignore_errors=True)
            removed.append(f"sha256:{name}")
            left -= size
    return removed


def _engines(top: Path) -> Path:
    return top / "tensorrt" / "engines"


def _name(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _bytes(folder: Path) -> int:
    """Returns the bytes of the files in a folder; of those that are gone meanwhile, none."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size


def _refuse_if_shared(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(f"[runtime] tensorrt_cache: {path} is another user's, and what lies in it is run")
    if found.st_mode & _OTHERS:
        raise ConfigError(f"[runtime] tensorrt_cache: others may write to {path}, and what lies in it is run")
