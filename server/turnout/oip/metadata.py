"""Describes versions as ModelMetadata and ModelConfig. Pure."""

from turnout.oip.elements import ELEMENT_TYPES
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.manifest.signature import TensorSpec
from turnout.serving.versions.catalog import CatalogSnapshot, VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout_proto.oip.inference_pb2 import ModelMetadataResponse
from turnout_proto.oip.model_config_pb2 import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelOutput,
    ModelTransactionPolicy,
)

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


def model_metadata(entry: VersionEntry, snapshot: CatalogSnapshot) -> ModelMetadataResponse:
    """Describes a version, and lists all versions of its model that are ready.

    The versions are in ascending order, as in Triton, since clients assume that the last one is the newest.
    """
    versions = snapshot.model(entry.model).versions.values()
    signature = entry.manifest.signature
    return ModelMetadataResponse(
        name=entry.model,
        versions=[str(other.version) for other in reversed(list(versions)) if other.state is LifecycleState.READY],
        platform=PLATFORM,
        inputs=[_tensor_metadata(spec) for spec in signature.inputs],
        outputs=[_tensor_metadata(spec) for spec in signature.outputs],
    )


def model_config(entry: VersionEntry) -> ModelConfig:
    """Describes a version as a Triton model configuration."""
    rows, signature = entry.max_batch_rows if batches_along_first_axis(entry) else 0, entry.manifest.signature
    config = ModelConfig(
        name=entry.model,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=rows,
        dynamic_batching=ModelDynamicBatching() if rows else None,
        default_model_filename=MODEL_FILE,
        model_transaction_policy=ModelTransactionPolicy(decoupled=False),
    )
    first = 1 if rows else 0  # the batch dimension, which Triton's configurations do not mention
    for spec in signature.inputs:
        kind, dims = ELEMENT_TYPES[spec.dtype].config, _sizes(spec)[first:]
        config.input.append(ModelInput(name=spec.name, data_type=kind, dims=dims, optional=spec.has_default))
    for spec in signature.outputs:
        kind, dims = ELEMENT_TYPES[spec.dtype].config, _sizes(spec)[first:]
        config.output.append(ModelOutput(name=spec.name, data_type=kind, dims=dims))
    config.parameters["turnout_version"].string_value = str(entry.version)
    config.parameters["turnout_digest"].string_value = entry.digest
    return config


def batches_along_first_axis(entry: VersionEntry) -> bool:
    """Returns whether the first dimension of every input and output is the batch dimension.

    This is what Triton's clients infer from `max_batch_size`: they drop the first dimension of every shape in the
    metadata and replace it with their own number of rows. A version that is batched along another axis, or has an input
    that is shared by the whole batch, must therefore be reported as unbatched. The same applies to a version with a
    one-dimensional input, since perf_analyzer cannot generate data for the empty shape that would remain.
    """
    if not entry.max_batch_rows:
        return False
    declared = entry.manifest.batching.axes if entry.manifest.batching is not None else None
    signature = entry.manifest.signature
    # If the publisher declares no axes, a version is batched along the first dynamic dimension of each input.
    return (
        all(_starts_free(spec) and len(spec.shape) > 1 and not spec.has_default for spec in signature.inputs)
        and all(_starts_free(spec) for spec in signature.outputs)
        and (declared is None or all(declared.get(spec.name) == 0 for spec in signature.inputs))
        and (declared is None or all(declared.get(spec.name, 0) == 0 for spec in signature.outputs))
    )


def _starts_free(spec: TensorSpec) -> bool:
    return bool(spec.shape) and not isinstance(spec.shape[0], int)


def _sizes(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in spec.shape]


def _tensor_metadata(spec: TensorSpec) -> ModelMetadataResponse.TensorMetadata:
    return ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=ELEMENT_TYPES[spec.dtype].name, shape=_sizes(spec)
    )
