"""Triton model repositories with tiny models."""

from pathlib import Path

from onnx import ModelProto

import onnx_models

SCORES = """
name: "scores"  # names its directory
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
version_policy: { specific { versions: [1, 3] } }
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 500
  default_queue_policy { max_queue_size: 64 }
}
instance_group [ { count: 2 kind: KIND_CPU } ]
model_warmup [ {
  name: "zeros" batch_size: 2
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } }
} ]
"""


def put(root: Path, name: str, number: int, model: ModelProto, *, file: str = "model.onnx") -> Path:
    """Adds a version of a model in Triton's layout."""
    (root / name / str(number)).mkdir(parents=True, exist_ok=True)
    return onnx_models.save(model, root / name / str(number) / file)


def three_models(root: Path) -> Path:
    """Creates three models: `scores`, with three versions of which two are served, a configuration, labels and a
    warm-up; `Scale.x2`, with one version, unbatched; and `plain`, without a configuration, with two versions of which
    the higher one is served. Each `scale` multiplies by its number.
    """
    for number in (1, 2, 3):
        put(root, "scores", number, onnx_models.softmax(float(number)))
    (root / "scores" / "config.pbtxt").write_text(SCORES)
    (root / "scores" / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    put(root, "Scale.x2", 2, onnx_models.scaled(2))
    (root / "Scale.x2" / "config.pbtxt").write_text('backend: "onnxruntime" max_batch_size: 1')
    put(root, "plain", 9, onnx_models.scaled(9))
    put(root, "plain", 10, onnx_models.scaled(10))
    return root
