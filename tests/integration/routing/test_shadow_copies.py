"""Which answers are copied to a shadow, what is dropped when there are too many, and what the metrics tell of both."""

import asyncio

import numpy as np
import pytest

import onnx_models
from onnx_models import scaled
from routing_wire import control_of, policy, put, scrape
from shadow_wire import PATIENT, accounted, numbered, predict, report, settled
from turnout.routing.policy import UNITS
from turnout.routing.shadow.mirror import material_of, position_of
from turnout.routing.shadow.pressure import Pressure
from turnout.serving.data_plane.inference import InferenceRequest
from turnout_proto import tensors
from turnout_proto.v1 import traffic_pb2 as pb
from wire import request

X = np.ones((1, 4), np.float32)
SLOW = np.array(2000)

pytestmark = pytest.mark.slow


def sampled(calls, shadow: str, rate: float) -> int:
    """How many of `calls` the shadow gets, counted by the rule itself."""
    positions = (
        position_of(
            material_of(
                InferenceRequest(
                    call.model, call.version, {t.name: tensors.decode(t) for t in call.inputs}, (), call.request_id
                )
            ),
            shadow,
        )
        for call in calls
    )
    return sum(position < rate * UNITS for position in positions)


async def test_each_shadow_gets_its_share_of_the_baselines_answers(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(1), release=False)
    publish_model("m", "1.2.0", scaled(2), release=False)
    server = await start_server(shadow=PATIENT)
    await put(server, policy("1.0.0", {"1.1.0": 0.25, "1.2.0": 0.6}))
    calls = numbered(1000, x=X)
    assert (await predict(server, calls)).errors == []
    for version, rate in (("1.1.0", 0.25), ("1.2.0", 0.6)):
        comparison = await settled(server, version, sampled(calls, version, rate))
        assert set(comparison.outcomes) == {"agreed" if version == "1.1.0" else "disagreed"}
        assert not comparison.dropped


async def test_pins_and_canaries_are_not_copied(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(1), release=False)
    publish_model("m", "1.2.0", scaled(1), release=False)
    server = await start_server(shadow=PATIENT)
    await put(server, policy("1.0.0", {"1.2.0": 1.0}, v1_1_0=0.5))
    calls = numbered(200, x=X)
    live = await predict(server, calls)
    by_baseline = sum(answer.route.version == "1.0.0" for answer in live.answers)
    assert 0 < by_baseline < 200
    pinned = [request("m", "1.0.0", request_id=f"p{n}", x=X) for n in range(50)]
    assert (await predict(server, pinned)).errors == []
    await settled(server, "1.2.0", by_baseline)


async def test_failed_requests_are_not_copied(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.look_up())
    publish_model("m", "1.1.0", onnx_models.look_up_safely(), release=False)
    server = await start_server(shadow=PATIENT)
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    live = await predict(server, numbered(5, index=[10**6]) + numbered(5, 5, index=[1]))
    assert (len(live.errors), len(live.answers)) == (5, 5)
    await settled(server, "1.1.0", 5)


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ({"max_queue_requests": 3}, "queue_items"),
        ({"max_queue_bytes": 200}, "queue_bytes"),
        ({"max_lag_s": 0}, "stale"),
    ],
)
async def test_what_a_lane_cannot_take_is_dropped_and_counted(publish_model, start_server, bound, reason) -> None:
    publish_model("m", "1.0.0", onnx_models.adds_count())
    publish_model("m", "1.1.0", onnx_models.slow(), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0, "max_inflight": 1} | bound)
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    assert (await predict(server, numbered(60, x=X, n=SLOW))).errors == []
    comparison = await settled(server, "1.1.0", 60)
    assert set(comparison.dropped) == {reason}
    assert comparison.dropped[reason] > 0
    seen = await scrape(server)
    assert (
        seen["turnout_shadow_dropped_total", "model=m", f"reason={reason}", "version=1.1.0"]
        == comparison.dropped[reason]
    )


async def test_strings_count_by_their_length(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.identity(onnx_models.TensorProto.STRING))
    publish_model("m", "1.1.0", onnx_models.identity(onnx_models.TensorProto.STRING), release=False)
    server = await start_server(shadow=PATIENT | {"max_queue_bytes": "100KiB", "max_inflight": 1})
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    long = np.full((1, 4), "a" * 15_000, object)
    assert (await predict(server, numbered(200, x=long), at_once=32)).errors == []
    comparison = await settled(server, "1.1.0", 200)
    assert set(comparison.dropped) <= {"queue_bytes"}
    assert comparison.dropped["queue_bytes"] > 0


async def test_a_copy_keeps_no_more_in_memory_than_it_counts_for(publish_model, start_server, monkeypatch) -> None:
    """A batch of eight answers is one array, of which a copy needs one row."""
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(1), release=False)
    batching = {"only_where_it_pays": False, "max_delay_ms": 100_000, "max_rows": 8}
    server = await start_server(
        shadow=PATIENT | {"noise_rate": 0}, batching=batching, runtime={"runners": 1, "inline_threshold_us": 0}
    )
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    (lane,) = server.parts.serving.shadows.of("m")
    with monkeypatch.context() as held:
        held.setattr(Pressure, "has_room", lambda _: False)
        live = await predict(server, numbered(16, x=X), at_once=8)
        assert live.errors == []
        copies = list(lane._queue)
    assert max(answer.timing.batch_rows for answer in live.answers) > 2
    assert len(copies) == 16
    for copy in copies:
        (y,) = copy.expected
        assert (y if y.base is None else y.base).nbytes <= 2 * y.nbytes
    assert dict((await settled(server, "1.1.0", 16)).outcomes) == {"agreed": 16}


async def test_copies_for_a_shadow_that_is_not_ready_are_dropped(publish_model, start_server, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(1), release=False)
    await put(await start_server(), policy("1.0.0", {"1.1.0": 1.0}))
    path = models / "m" / "1.1.0" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    server = await start_server(shadow=PATIENT)
    live = await predict(server, numbered(5, x=X))
    assert live.errors == []
    comparison = await settled(server, "1.1.0", 5)
    assert dict(comparison.dropped) == {"not_ready": 5}


async def test_a_shadow_that_the_policy_drops_keeps_its_record(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(2), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0})
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    await predict(server, numbered(10, x=X))
    await settled(server, "1.1.0", 10)
    await put(server, policy("1.0.0"))
    assert (await predict(server, numbered(10, 10, x=X))).errors == []
    ended = await report(server, "1.1.0")
    assert (ended.state, accounted(ended)) == ("ended", 10)
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    await predict(server, numbered(10, 20, x=X))
    again = await settled(server, "1.1.0", 20)
    assert again.state == "open"


async def test_the_metrics_say_what_the_report_says(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(1.5), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.5})
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    await predict(server, numbered(20, x=X) + numbered(20, 20, x=0 * X))
    comparison = await settled(server, "1.1.0", 40)
    async with asyncio.timeout(100):
        while comparison.noise_runs < 40:
            await asyncio.sleep(0.02)
            comparison = await report(server, "1.1.0")
    assert (comparison.noise_runs, comparison.noise_disagreements) == (40, 0), "each while so many disagree"
    seen = await scrape(server)
    labels = ("model=m", "version=1.1.0")

    def value(name: str, **more: str) -> float:
        return seen[(name, *sorted([*labels, *(f"{key}={text}" for key, text in more.items())]))]

    assert value("turnout_shadow_requests_total", outcome="agreed") == comparison.outcomes["agreed"] == 20
    assert value("turnout_shadow_requests_total", outcome="disagreed") == comparison.outcomes["disagreed"] == 20
    assert value("turnout_shadow_mismatch_total", output="y", kind="value") == 20
    assert value("turnout_shadow_agreement_ratio") == comparison.agreement == 0.5
    assert value("turnout_shadow_lag_seconds_count") == 40
    assert value("turnout_shadow_abs_difference_count", output="y") == 40
    assert value("turnout_shadow_abs_difference_sum", output="y") == pytest.approx(20 * 0.5)
    assert value("turnout_shadow_abs_difference_bucket", output="y", le="0.1") == 20
    assert value("turnout_shadow_abs_difference_bucket", output="y", le="1.0") == 40
    (output,) = comparison.outputs
    assert (output.compared, output.max_abs, output.mean_abs) == (40, 0.5, 0.25)


async def test_a_report_of_an_unknown_model_is_refused_and_one_without_shadows_is_empty(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with control_of(server) as control:
        assert not (await control.GetShadowReport(pb.GetShadowReportRequest(model="m"))).shadows
        for asked, code in ((("nobody", 0), "NOT_FOUND"), (("m", 101), "INVALID_ARGUMENT")):
            with pytest.raises(Exception, match=code):
                await control.GetShadowReport(pb.GetShadowReportRequest(model=asked[0], worst=asked[1]))
