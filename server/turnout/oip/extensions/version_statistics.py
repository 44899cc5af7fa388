"""Computes Triton's statistics of versions from counters, and merges those of several workers. Pure.

A run is measured as a whole. Therefore `compute_input` and `compute_output` have a count but a time of 0: their time is
included in `compute_infer`, or in `success` in the case of decoding.
"""

from collections.abc import Iterable, Mapping

from turnout.telemetry.metrics.batches import BatchSizes
from turnout.telemetry.metrics.versions import RoleRecorder, VersionRecorder
from turnout_proto.oip.inference_pb2 import (
    InferBatchStatistics,
    InferStatistics,
    MemoryUsage,
    ModelStatistics,
    ModelStatisticsResponse,
    StatisticDuration,
)

_OK = "OK"


def version_statistics(recorder: VersionRecorder, epoch: float) -> ModelStatistics:
    """Returns the statistics of a version, over all its roles.

    The clock of `time.monotonic()` was 0 at the Unix time `epoch`, in seconds.
    """
    roles = list(recorder.roles.values())
    last = max((role.answered_last for role in roles), default=0.0)
    return ModelStatistics(
        name=recorder.model,
        version=recorder.version,
        last_inference=int((epoch + last) * 1000) if last else 0,
        inference_count=recorder.batches.rows,
        execution_count=recorder.batches.runs,
        inference_stats=_inference(roles),
        batch_stats=_batches(recorder.batches),
        memory_usage=_memory(recorder.memory_bytes),
    )


def pooled_statistics(parts: Iterable[ModelStatisticsResponse]) -> ModelStatisticsResponse:
    """Merges the statistics of several workers. Versions are in the order of their first occurrence."""
    found: dict[tuple[str, str], ModelStatistics] = {}
    for part in parts:
        for one in part.model_stats:
            key = one.name, one.version
            if key in found:
                _add(found[key], one)
            else:
                found[key] = one
    return ModelStatisticsResponse(model_stats=found.values())


def _inference(roles: Iterable[RoleRecorder]) -> InferStatistics:
    answered = failed = 0
    took = refused = queued = computed = 0.0
    for role in roles:
        succeeded = role.codes[_OK]
        answered += succeeded
        failed += sum(role.codes.values()) - succeeded
        took += role.duration.total - role.failed_seconds
        refused += role.failed_seconds
        queued += role.queue.total
        computed += role.compute.total
    return InferStatistics(
        success=_duration(answered, took),
        fail=_duration(failed, refused),
        queue=_duration(answered, queued),
        compute_input=_duration(answered, 0.0),
        compute_infer=_duration(answered, computed),
        compute_output=_duration(answered, 0.0),
        cache_hit=StatisticDuration(),
        cache_miss=StatisticDuration(),
    )


def _batches(batches: BatchSizes) -> list[InferBatchStatistics]:
    return [
        InferBatchStatistics(
            batch_size=one.size,
            compute_input=_duration(one.runs, 0.0),
            compute_infer=_duration(one.runs, one.seconds),
            compute_output=_duration(one.runs, 0.0),
        )
        for one in batches
        if one.runs
    ]


def _memory(by_device: Mapping[str, int]) -> list[MemoryUsage]:
    usages = []
    for device, size in by_device.items():
        kind, _, number = device.partition(":")
        usages.append(MemoryUsage(type="CPU" if kind == "cpu" else "GPU", id=int(number or 0), byte_size=max(size, 0)))
    return usages


def _duration(count: int, seconds: float) -> StatisticDuration:
    return StatisticDuration(count=count, ns=max(round(seconds * 1e9), 0))


def _add(whole: ModelStatistics, part: ModelStatistics) -> None:
    whole.last_inference = max(whole.last_inference, part.last_inference)
    whole.inference_count += part.inference_count
    whole.execution_count += part.execution_count
    for field in InferStatistics.DESCRIPTOR.fields:
        _add_duration(getattr(whole.inference_stats, field.name), getattr(part.inference_stats, field.name))
    batches = {batch.batch_size: batch for batch in whole.batch_stats}
    for batch in part.batch_stats:
        known = batches.setdefault(batch.batch_size, batch)
        if known is not batch:
            for name in ("compute_input", "compute_infer", "compute_output"):
                _add_duration(getattr(known, name), getattr(batch, name))
    ordered = [batches[size] for size in sorted(batches)]
    del whole.batch_stats[:]
    whole.batch_stats.extend(ordered)
    usages = {(usage.type, usage.id): usage for usage in whole.memory_usage}
    for usage in part.memory_usage:
        if (usage.type, usage.id) in usages:
            usages[usage.type, usage.id].byte_size += usage.byte_size
        else:
            whole.memory_usage.append(usage)


def _add_duration(whole: StatisticDuration, part: StatisticDuration) -> None:
    whole.count += part.count
    whole.ns += part.ns
