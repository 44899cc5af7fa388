"""Runs by size, and what is told of them in Triton's form."""

import pytest

from turnout.oip.extensions.version_statistics import pooled_statistics, version_statistics
from turnout.telemetry.metrics.batches import BatchSizes
from turnout.telemetry.metrics.versions import VersionRecorder
from turnout_proto.oip.inference_pb2 import ModelStatisticsResponse


def test_each_size_is_counted_by_itself() -> None:
    sizes = BatchSizes()
    for rows in (3, 1, 3):
        sizes.observe(rows, 0.5)
    assert [(one.size, one.runs, one.rows, one.seconds) for one in sizes] == [(1, 1, 1, 0.5), (3, 2, 6, 1.0)]
    assert (sizes.runs, sizes.rows) == (3, 7)


def test_the_histogram_is_what_observing_each_run_would_have_made_it() -> None:
    sizes = BatchSizes()
    for rows in (0, 1, 2, 3, 4, 1024, 1025):
        sizes.observe(rows, 0.0)
    histogram = sizes.histogram()
    assert histogram.counts == [2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert histogram.total == 2059


def test_sizes_that_are_too_many_count_for_the_next_power_of_two_and_their_rows_stay_exact() -> None:
    sizes = BatchSizes()
    for rows in range(1, 1025):
        sizes.observe(rows, 0.0)
    before = len(list(sizes))
    for rows in range(1025, 9001):
        sizes.observe(rows, 0.0)
    assert before == 1024
    assert [one.size for one in sizes][before:] == [2048, 4096, 8192, 16384]
    assert (sizes.runs, sizes.rows) == (9000, sum(range(9001)))
    assert sizes.histogram().counts[-1] == 9000 - 1024


def recorder(**codes: int) -> VersionRecorder:
    made = VersionRecorder("m", "1.2.0", "sha256:1", memory_bytes={"cpu": 7, "cuda:1": 9})
    role = made.role("baseline")
    for code, count in codes.items():
        for _ in range(count):
            if code == "OK":
                role.answered(0.5, 0.125, 0.25)
                role.answered_last = 40.0
                made.batches.observe(2, 0.25)
            else:
                role.failed(code, 0.0625)
    return made


def test_answers_and_failures_are_told_apart_with_their_times() -> None:
    statistics = version_statistics(recorder(OK=3, INTERNAL=1, DEADLINE_EXCEEDED=1), epoch=1000.0)
    stats = statistics.inference_stats
    assert (statistics.name, statistics.version, statistics.last_inference) == ("m", "1.2.0", 1_040_000)
    assert (statistics.inference_count, statistics.execution_count) == (6, 3)
    assert (stats.success.count, stats.success.ns) == (3, 1_500_000_000)
    assert (stats.fail.count, stats.fail.ns) == (2, 125_000_000)
    assert (stats.queue.count, stats.queue.ns) == (3, 375_000_000)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (3, 750_000_000)
    assert (stats.compute_input.count, stats.compute_output.count) == (3, 3)
    (batch,) = statistics.batch_stats
    assert (batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) == (2, 3, 750_000_000)
    assert [(usage.type, usage.id, usage.byte_size) for usage in statistics.memory_usage] == [
        ("CPU", 0, 7),
        ("GPU", 1, 9),
    ]


def test_a_version_that_did_nothing_says_so() -> None:
    statistics = version_statistics(VersionRecorder("m", "1.0.0", ""), epoch=1000.0)
    assert (statistics.last_inference, statistics.inference_count, list(statistics.batch_stats)) == (0, 0, [])
    assert statistics.inference_stats.HasField("cache_miss")


@pytest.mark.parametrize("order", [1, -1])
def test_workers_are_added_up(order: int) -> None:
    parts = [
        ModelStatisticsResponse(model_stats=[version_statistics(recorder(OK=3, INTERNAL=1), 1000.0)]),
        ModelStatisticsResponse(
            model_stats=[
                version_statistics(recorder(OK=2), 2000.0),
                version_statistics(VersionRecorder("m", "2.0.0", ""), 0.0),
            ]
        ),
    ]
    whole = pooled_statistics(parts[::order]).model_stats
    assert [one.version for one in whole] == ["1.2.0", "2.0.0"]
    assert whole[0].inference_count == 10
    assert whole[0].last_inference == 2_040_000
    assert (whole[0].inference_stats.success.count, whole[0].inference_stats.fail.count) == (5, 1)
    assert whole[0].batch_stats[0].compute_infer.count == 5
    assert [usage.byte_size for usage in whole[0].memory_usage] == [14, 18]
