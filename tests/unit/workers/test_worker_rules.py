"""Which rule makes one series of several workers', and what each worker may take of what is set for all."""

import pytest

from turnout.config import Limits, ModelOverrides, QueueLimits, Runtime, Settings, ShadowLane
from turnout.config.loading import Loading
from turnout.errors import ConfigError
from turnout.telemetry.families import Family
from turnout.telemetry.metrics.versions import Metrics
from turnout.telemetry.ratios import ShadowAgreement
from turnout.workers.division import check_gpus, part, share_of
from turnout.workers.merging import Totals
from turnout.workers.restarts import MOST_EARLY_DEATHS, STEADY_SECONDS, Restarts
from turnout.workers.rules import GAUGES, STATES


def merged(name: str, kind: str, *workers, complete: bool = True):
    totals = Totals()
    for index, series in enumerate(workers):
        totals.update(str(index), [Family(name, kind, "", series)])
    families = [f for f in totals.families(complete=complete) if f.name == name]
    return [(dict(labels), value) for labels, value in families[0].series]


def test_every_gauge_of_a_server_has_a_rule_and_every_rule_a_gauge() -> None:
    families = list(Metrics().snapshot())
    assert {f.name for f in families if f.kind == "gauge"} == set(GAUGES)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("turnout_inflight_requests", (2, 3), 5),
        ("turnout_queue_fill_ratio", (0.5, 0.9), 0.9),
        ("turnout_policy_epoch", (7, 8), 8),
        ("turnout_traffic_weight", (0.1, 0.0), 0.05),
        ("turnout_repository_available", (1, 0), 0),
        ("turnout_version_load_duration_seconds", (1.5, 2.5), 2.5),
        ("process_start_time_seconds", (100.0, 50.0), 50.0),
        ("turnout_rollout_last_tick_seconds", (1.0, 4.0), 4.0),
    ],
)
def test_gauges_are_summed_or_the_one_that_says_more_stands(name, values, expected) -> None:
    assert merged(name, "gauge", *([({}, value)] for value in values)) == [({}, expected)]


def test_memory_is_a_sum_on_the_cpu_and_the_whole_device_on_a_gpu() -> None:
    one = [({"device": "cpu"}, 10), ({"device": "cuda:0"}, 70)]
    other = [({"device": "cpu"}, 20), ({"device": "cuda:0"}, 71)]
    memory = {labels["device"]: value for labels, value in merged("turnout_memory_used_bytes", "gauge", one, other)}
    assert memory == {"cpu": 30, "cuda:0": 71}


def test_what_neither_sums_nor_has_one_that_counts_is_shown_for_each_worker() -> None:
    series = merged("process_open_fds", "gauge", [({}, 30)], [({}, 40)])
    assert series == [({"worker": "0"}, 30), ({"worker": "1"}, 40)]


@pytest.mark.parametrize(("states", "expected"), [("ready ready", "ready"), ("ready loading", "loading")])
def test_a_version_is_in_one_state_that_of_the_worker_least_far_with_it(states: str, expected: str) -> None:
    labels = {"model": "m", "version": "1.0.0", "digest": "d"}
    workers = [[(labels | {"state": state}, 1.0)] for state in states.split()]
    assert merged("turnout_version_info", "gauge", *workers) == [(labels | {"state": expected}, 1.0)]
    assert merged("turnout_version_info", "gauge", *reversed(workers)) == [(labels | {"state": expected}, 1.0)]


def test_every_state_of_a_version_has_its_rank() -> None:
    from turnout.serving.versions.lifecycle import LifecycleState

    assert set(STATES) == {str(state) for state in LifecycleState}


def test_an_agreement_of_all_takes_the_noise_of_all_off() -> None:
    labels = {"model": "m", "version": "1.0.0"}
    workers = [(labels, ShadowAgreement(20, 100, 1, 2))], [(labels, ShadowAgreement(0, 0, 0, 8))]
    series = merged("turnout_shadow_agreement_ratio", "gauge", *workers)
    assert series[0][1].value == pytest.approx(1 - (20 / 100 - 1 / 10))


def test_evidence_of_a_rollout_that_moves_to_another_worker_is_not_counted_twice() -> None:
    labels = {"model": "m", "version": "1.0.0", "arm": "canary", "metric": "errors"}
    totals = Totals()
    totals.update("0", [Family("turnout_rollout_bad_events_total", "counter", "", [(labels, 5.0)])])
    totals.update("0", [Family("turnout_rollout_bad_events_total", "counter", "", [])])
    totals.update("1", [Family("turnout_rollout_bad_events_total", "counter", "", [(labels, 6.0)])])
    assert list(totals.families(complete=True)[0].series) == [(labels, 6.0)]


def test_series_of_a_version_that_no_worker_knows_any_more_go_after_two_scrapes() -> None:
    gone, stays = {"model": "m", "version": "1.0.0"}, {"model": "m", "version": "2.0.0"}
    name = "turnout_requests_total"
    totals = Totals()
    totals.update("0", [Family(name, "counter", "", [(gone, 5.0), (stays, 1.0)])])
    totals.update("0", [Family(name, "counter", "", [(stays, 2.0)])])
    scrapes = [[labels["version"] for labels, _ in totals.families(complete=True)[0].series] for _ in range(4)]
    assert scrapes == [["2.0.0", "1.0.0"], ["2.0.0", "1.0.0"], ["2.0.0"], ["2.0.0"]]


def test_series_stay_while_a_worker_is_away_that_may_know_them() -> None:
    labels = {"model": "m", "version": "1.0.0"}
    totals = Totals()
    totals.update("0", [Family("turnout_requests_total", "counter", "", [(labels, 5.0)])])
    totals.died("0")
    for _ in range(5):
        assert list(totals.families(complete=False)[0].series) == [(labels, 5.0)]


@pytest.mark.parametrize(("whole", "parts"), [(7, [3, 2, 2]), (1, [1, 1]), (0, [0] * 4), (8, [4, 4])])
def test_parts_add_up_and_nobody_gets_nothing(whole: int, parts: list[int]) -> None:
    assert [part(whole, index, len(parts)) for index in range(len(parts))] == parts


def test_runners_and_queues_are_divided_for_all_models_and_for_each_of_them() -> None:
    settings = Settings(
        workers=2,
        runtime=Runtime(runners=3),
        limits=Limits(max_queue_requests=100),
        loading=Loading(concurrency=2),
        shadow=ShadowLane(max_inflight=2),
        model={"m": ModelOverrides(limits=QueueLimits(max_queue_requests=11), runtime=Runtime(isolation="process"))},
    )
    first, second = share_of(settings, 0), share_of(settings, 1)
    assert (first.runtime.runners, second.runtime.runners) == (2, 1)
    assert (first.loading.concurrency, first.shadow.max_inflight) == (1, 1)
    assert first.for_model("other").limits.max_queue_requests == 50
    assert [one.for_model("m").limits.max_queue_requests for one in (first, second)] == [6, 5]
    assert int(first.for_model("m").limits.max_queue_bytes) == int(settings.limits.max_queue_bytes) // 2
    own = first.for_model("m").runtime
    assert (own.isolation, own.runners) == ("process", 2)  # what a model leaves unset is that of all
    assert first.limits.max_message_bytes == settings.limits.max_message_bytes


def test_every_worker_can_take_the_largest_message() -> None:
    settings = Settings(workers=16)
    largest = settings.limits.max_message_bytes
    for index in range(16):
        share = share_of(settings, index)
        assert share.for_model("m").limits.max_queue_bytes >= largest
        assert share.limits.max_unfinished_bytes >= largest
        assert share.limits.max_requests == settings.limits.max_requests // 16


def test_one_worker_has_everything() -> None:
    settings = Settings(runtime=Runtime(runners=3), model={"m": ModelOverrides(runtime=Runtime(runners=5))})
    assert share_of(settings, 0) == settings


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (Settings(), False),
        (Settings(workers=2), True),
        (Settings(workers=2, runtime=Runtime(gpu_in_each_worker=True)), False),
        (Settings(workers=2, runtime=Runtime(providers=("cpu",))), False),
        (Settings(workers=2, runtime=Runtime(providers=("cuda", "cpu"))), True),
        (
            Settings(
                workers=2,
                runtime=Runtime(providers=("cpu",)),
                model={"m": ModelOverrides(runtime=Runtime(providers=("cuda",)))},
            ),
            True,
        ),
    ],
)
def test_a_version_is_on_a_gpu_in_each_worker_only_where_that_was_asked_for(settings: Settings, refused: bool) -> None:
    if not refused:
        return check_gpus(settings)
    with pytest.raises(ConfigError, match="gpu_in_each_worker"):
        check_gpus(settings)
    return None


def test_a_worker_comes_back_at_once_and_ever_later_where_it_does_not_live() -> None:
    restarts = Restarts()
    assert [restarts.died(0.0) for _ in range(9)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert restarts.died(STEADY_SECONDS) == 0.0
    assert (restarts.early, restarts.count) == (0, 10)


def test_a_worker_that_died_early_again_and_again_cannot_live() -> None:
    restarts = Restarts()
    for _ in range(MOST_EARLY_DEATHS - 1):
        restarts.died(1.0)
    assert not restarts.hopeless
    restarts.died(1.0)
    assert restarts.hopeless
