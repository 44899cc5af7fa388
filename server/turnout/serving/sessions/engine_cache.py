"""The folders in which TensorRT keeps engines and timings between loads (`tensorrt_cache` says where), on this machine.

An engine is code that TensorRT runs: whoever may write one there has the server run it. So the folders are the server's
own, and one that others may write to is refused.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from turnout.errors import ConfigError
from turnout.serving.sessions.cuda_driver import CudaDevice
from turnout.serving.sessions.tensorrt_cache import TensorrtCache

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def engine_cache_options(root: str, digest: str, device: CudaDevice) -> Mapping[str, str]:
    """Makes the folders of a version on a device, and returns the options of ONNX Runtime's TensorRT provider for them.

    Args:
        root: Path of a folder on a local disk.
        digest: Of the version.
        device: That it will run on.

    Raises:
        ConfigError: They cannot be made, are another user's, or others may write to them.
    """
    top = Path(root).absolute()
    cache = TensorrtCache.of(str(top), digest, device.name, device.capability, ort.__version__)
    for folder in map(Path, (cache.engines, cache.timings)):
        try:
            top.parent.mkdir(parents=True, exist_ok=True)
            for path in reversed([folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]):
                path.mkdir(mode=0o700, exist_ok=True)  # each by itself: `parents` goes by the umask
                _refuse_if_shared(path, path.stat())
        except OSError as error:
            raise ConfigError(f"[runtime] tensorrt_cache: {error.strerror}: {folder}") from error
    return cache.options()


def _refuse_if_shared(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(f"[runtime] tensorrt_cache: {path} is another user's, and what lies in it is run")
    if found.st_mode & _OTHERS:
        raise ConfigError(f"[runtime] tensorrt_cache: others may write to {path}, and what lies in it is run")
