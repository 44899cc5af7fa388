"""Where TensorRT keeps what it takes minutes to build, and how ONNX Runtime is told of it. Pure.

    <cache>/tensorrt/engines/<digest>/<GPU>/<libraries>/full    engines of one version at full precision
                                                       /fp16    the same in FP16
                                                       /precision.json    which of them is used, and why
    <cache>/tensorrt/timings/<GPU>/<libraries>/                 how long kernels take, which all versions share

An engine is right for the model, the GPU and the libraries that it was built with, and ONNX Runtime does not look
whether they are the same: so each has a folder of its own. Never in the repository, whose versions do not change.

`[runtime] tensorrt_cache` says where; a session is given these options if it is set, which was not seen on a GPU yet.
The options are those of onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html, "TensorRT EP Caches".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_UNFIT = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class TensorrtCache:
    """The folders of one version on one kind of GPU.

    Attributes:
        engines: Path of the version's own, on that GPU with those libraries.
        timings: Path of that of all versions.
    """

    engines: str
    timings: str

    @classmethod
    def of(cls, cache: str, digest: str, gpu: str, capability: str, runtime: str, tensorrt: str) -> "TensorrtCache":
        """Returns the folders; none is made.

        Args:
            cache: Path of a folder on a local disk.
            digest: Of the version.
            gpu: Name of the device, such as `NVIDIA H200`.
            capability: Its compute capability, such as `9.0`.
            runtime: Version of ONNX Runtime.
            tensorrt: Version of TensorRT, of which ONNX Runtime fixes the first number only; "" where that is not told.

        Raises:
            ValueError: That is not a digest, or the device has no name.
        """
        matched = _DIGEST.fullmatch(digest)
        device = _UNFIT.sub("-", gpu).strip("-.").lower()
        if matched is None or not device:
            raise ValueError(f"expected a digest and a device, got {digest!r} and {gpu!r}")
        kind = f"{device}-sm{_UNFIT.sub('', capability).replace('.', '')}/ort-{_UNFIT.sub('-', runtime)}"
        if tensorrt:
            kind += f"-trt-{_UNFIT.sub('-', tensorrt)}"
        return cls(f"{cache}/tensorrt/engines/{matched[1]}/{kind}", f"{cache}/tensorrt/timings/{kind}")

    def engines_in(self, *, fp16: bool) -> str:
        """Returns the path of the engines of one precision."""
        return f"{self.engines}/{'fp16' if fp16 else 'full'}"

    @property
    def precision(self) -> str:
        """Path of what was found out about FP16."""
        return f"{self.engines}/precision.json"

    def options(self, *, fp16: bool) -> Mapping[str, str]:
        """Returns the options of ONNX Runtime's TensorRT provider that have it use the folders, at one precision."""
        return {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": self.engines_in(fp16=fp16),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": self.timings,
            # Timings of a GPU that differs are no use, and engines built from them slow.
            "trt_force_timing_cache": "False",
        }
