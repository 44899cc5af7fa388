"""The folders on this machine in which TensorRT caches engines and timings (setting `tensorrt_cache`).

    <cache>/tensorrt/engines/<digest>/<GPU>/<libraries>/<shapes>/full    engines of one version at full precision
                                                                /fp16    the same in FP16
                                                                /precision.json    which of them is used, and why
    <cache>/tensorrt/timings/<GPU>/<libraries>/                          timings of kernels, shared by all versions

An engine is valid for the model, GPU and libraries that it was built with, which ONNX Runtime does not check, and for
the shapes that it was built for: ONNX Runtime replaces the engines of other shapes. So each combination has its own
folder. The cache is never in the repository, whose versions do not change. The options are documented in "TensorRT EP
Caches" on onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html. This has not been tested on a GPU
yet.

An engine is code that TensorRT runs, so anyone who can write engines there can make the server run code. The folders
therefore belong to the server's user, and a folder that others can write to is refused.
"""

import contextlib
import os
import re
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
from turnout.serving.tensorrt.shapes import ShapeProfile

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_UNFIT = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class TensorrtCache:
    """The folders of one version on one kind of GPU. Does no I/O.

    Attributes:
        engines: Path of the version's own folder for that GPU, those libraries and those shapes.
        timings: Path of the folder that all versions share.
    """

    engines: str
    timings: str

    @classmethod
    def of(
        cls, cache: str, digest: str, gpu: str, capability: str, runtime: str, tensorrt: str, shapes: str
    ) -> "TensorrtCache":
        """Returns the folders of a version (`digest`) on a device without creating them.

        `runtime` and `tensorrt` are the versions of the libraries, since ONNX Runtime fixes only the major version of
        TensorRT; "" if it is unknown. `shapes` is a `ShapeProfile.key`.

        Raises:
            ValueError: The digest is invalid, or the device has no name.
        """
        matched = _DIGEST.fullmatch(digest)
        device = _UNFIT.sub("-", gpu).strip("-.").lower()
        if matched is None or not device:
            raise ValueError(f"expected a digest and a device, got {digest!r} and {gpu!r}")
        kind = f"{device}-sm{_UNFIT.sub('', capability).replace('.', '')}/ort-{_UNFIT.sub('-', runtime)}"
        if tensorrt:
            kind += f"-trt-{_UNFIT.sub('-', tensorrt)}"
        return cls(f"{cache}/tensorrt/engines/{matched[1]}/{kind}/{shapes}", f"{cache}/tensorrt/timings/{kind}")

    def engines_in(self, *, fp16: bool) -> str:
        """Returns the path of the engines at one precision."""
        return f"{self.engines}/{'fp16' if fp16 else 'full'}"

    @property
    def precision(self) -> str:
        """Path of the record of whether FP16 is exact enough."""
        return f"{self.engines}/precision.json"

    def options(self, *, fp16: bool) -> Mapping[str, str]:
        """Returns the options that make ONNX Runtime's TensorRT provider use the folders at one precision."""
        return {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": self.engines_in(fp16=fp16),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": self.timings,
            # Timings from another kind of GPU are useless, and make for slow engines.
            "trt_force_timing_cache": "False",
        }


def open_cache(root: str, digest: str, device: CudaDevice, shapes: str) -> TensorrtCache:
    """Creates the folders of one version on one device, for engines of the shapes with this key.

    Raises:
        ConfigError: The folders cannot be created, belong to another user, or others can write to them.
    """
    top = Path(root).absolute()
    cache = TensorrtCache.of(
        str(top), digest, device.name, device.capability, ort.__version__, tensorrt_version(), shapes
    )
    for folder in map(Path, (cache.engines_in(fp16=False), cache.engines_in(fp16=True), cache.timings)):
        try:
            top.parent.mkdir(parents=True, exist_ok=True)
            for path in reversed([folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]):
                path.mkdir(mode=0o700, exist_ok=True)  # one by one, since `parents=True` uses the umask
                _refuse_if_shared(path, path.stat())
        except OSError as error:
            raise ConfigError(f"[runtime] tensorrt_cache: {error.strerror}: {folder}") from error
    with contextlib.suppress(OSError):  # on a read-only disk, from which nothing can be removed either
        os.utime(_engines(top) / _name(digest))
    return cache


def clear(cache: TensorrtCache, *, fp16: bool) -> bool:
    """Removes the engines of one precision, such as damaged ones; returns whether there were any."""
    removed = False
    with contextlib.suppress(OSError):
        for path in Path(cache.engines_in(fp16=fp16)).iterdir():
            path.unlink()
            removed = True
    return removed


def engine_caches(digest: str, runtime: Runtime, shapes: ShapeProfile) -> Mapping[int, TensorrtCache]:
    """Opens the cache folders of a version by device. Raises ConfigError."""
    if not runtime.tensorrt_cache:
        return {}
    found = {device.index: device for device in cuda_driver().devices}
    return {
        index: open_cache(runtime.tensorrt_cache, digest, found[index], shapes.key)
        for index in runtime.device_ids
        if index in found  # for missing devices, creating the session reports the error
    }


def provider_options(cache: TensorrtCache | None, shapes: ShapeProfile, *, fp16: bool) -> Mapping[str, str]:
    """Returns the options of ONNX Runtime's TensorRT provider for one precision, with `cache` if it is not None."""
    precision = {"trt_fp16_enable": str(fp16)}  # always set, since environment variables may set it too
    return {**({} if cache is None else cache.options(fp16=fp16)), **shapes.options, **precision}


def forget(root: str, digest: str) -> None:
    """Removes the engines of a version for all devices."""
    shutil.rmtree(_engines(Path(root).absolute()) / _name(digest), ignore_errors=True)


def keep_within(root: str, most: int, but: Collection[str]) -> list[str]:
    """Removes engines of the least recently loaded versions until the rest takes at most `most` bytes.

    Those of the versions with the digests `but` are kept. Returns the digests of the versions whose engines were
    removed.
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
    """Returns the total size of the files in a folder in bytes, ignoring files that are removed in the meantime."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size


def _refuse_if_shared(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(f"[runtime] tensorrt_cache: {path} belongs to another user, and its contents are executed")
    if found.st_mode & _OTHERS:
        raise ConfigError(f"[runtime] tensorrt_cache: other users may write to {path}, and its contents are executed")
