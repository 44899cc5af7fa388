"""Layout of the TensorRT cache, and the options that make ONNX Runtime use it. Pure.

    <cache>/tensorrt/engines/<digest>/<GPU>/<libraries>/<shapes>/full    engines of one version at full precision
                                                                /fp16    the same in FP16
                                                                /precision.json    which of them is used, and why
    <cache>/tensorrt/timings/<GPU>/<libraries>/                          timings of kernels, shared by all versions

An engine is valid for the model, GPU and libraries that it was built with, which ONNX Runtime does not check, and for
the shapes that it was built for: ONNX Runtime replaces the engines of other shapes. So each combination has its own
folder. The cache is never in the repository, whose versions do not change.

The setting `[runtime] tensorrt_cache` is the path of the cache; sessions get these options if it is set. This has not
been tested on a GPU yet. The options are documented in "TensorRT EP Caches" on
onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
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
        engines: Path of the version's own folder for that GPU, those libraries and those shapes.
        timings: Path of the folder that all versions share.
    """

    engines: str
    timings: str

    @classmethod
    def of(
        cls, cache: str, digest: str, gpu: str, capability: str, runtime: str, tensorrt: str, shapes: str
    ) -> "TensorrtCache":
        """Returns the folders without creating them.

        Args:
            cache: Path of a folder on a local disk.
            digest: Digest of the version.
            gpu: Name of the device, such as `NVIDIA H200`.
            capability: Compute capability of the device, such as `9.0`.
            runtime: Version of ONNX Runtime.
            tensorrt: Version of TensorRT, of which ONNX Runtime fixes only the major version; "" if it is unknown.
            shapes: Key of the shapes that engines are built for (`turnout.serving.tensorrt.shapes`).

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
