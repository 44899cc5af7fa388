"""Whatever a shadow does, the live path does not feel it, and what it did is counted."""

import asyncio
import io
import platform
import time

import httpx
import numpy as np
import pytest
from rich.console import Console, RenderableType

import onnx_models
from onnx_models import scaled
from routing_wire import policy, put, scrape
from shadow_wire import PATIENT, accounted, numbered, predict, report, settled
from started_servers import make_settings
from turnout.app.server import running
from turnout.cli.traffic.shadow_view import report_lines
from turnout.routing.shadow import runner
from turnout.telemetry.logging import make_logger

X = np.ones((1, 4), np.float32)
FOREVER = np.array(10**9)
"""Rounds of `onnx_models.slow` that take hours."""

pytestmark = pytest.mark.slow

on_x86 = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}, reason="only x86 traps on an integer's overflow"
)


@pytest.fixture
def start_pair(publish_model, start_server):
    """Starts a server whose every answer by the baseline 1.0.0 is copied to the shadow 1.1.0."""

    async def start(baseline, shadow, runtime=None, **settings):
        publish_model("m", "1.0.0", baseline)
        publish_model("m", "1.1.0", shadow, release=False)
        server = await start_server(shadow=PATIENT | {"noise_rate": 0.0} | settings, runtime=runtime or {})
        await put(server, policy("1.0.0", {"1.1.0": 1.0}))
        return server

    return start


def printed(*renderables: RenderableType) -> str:
    with io.StringIO() as file:
        Console(file=file, width=200).print(*renderables)
        return file.getvalue()


async def only_the_baseline_answered(server, count: int) -> None:
    """Checks the counts that a rollout reads."""
    seen = await scrape(server)
    live = {k[1:]: v for k, v in seen.items() if k[0] == "turnout_requests_total" and v}
    assert live == {("code=OK", "model=m", "role=baseline", "version=1.0.0"): count}
    decided = {k[1:]: v for k, v in seen.items() if k[0] == "turnout_route_decisions_total"}
    assert decided == {("model=m", "role=baseline", "version=1.0.0"): count}


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_shadow_that_raises(start_pair, isolation: str) -> None:
    server = await start_pair(onnx_models.look_up_safely(), onnx_models.look_up(), isolation=isolation)
    good, bad = numbered(20, index=[3]), numbered(20, 20, index=[10**6])
    live = await predict(server, [call for pair in zip(good, bad, strict=True) for call in pair])
    assert (live.errors, len(live.answers)) == ([], 40)
    comparison = await settled(server, "1.1.0", 40)
    # A batch with a bad copy in it fails as a whole and is run again one by one.
    assert dict(comparison.outcomes) == {"agreed": 20, "failed": 20}
    assert comparison.state == "open"
    await only_the_baseline_answered(server, 40)
    # All compared copies agree; people read in each place that half of the copies have no answer.
    assert comparison.agreement == 1.0
    lines = printed(*report_lines(comparison))
    assert "agreement              100% of 20 copies that 1.1.0 answered" in lines
    assert "not answered           20 of 40 copies, 50%" in lines
    async with httpx.AsyncClient(base_url=f"http://{server.http}", trust_env=False) as client:
        model = (await client.get("/console/models/m")).text
        shadow = (await client.get("/console/models/m/shadow")).text
    assert "agrees with 1.0.0 on 100% of 20 compared copies" in model
    assert "did not answer 20" in model
    assert "<strong>20</strong> not answered" in shadow


async def test_a_shadow_whose_files_are_not_what_was_published_any_more_compares_nothing(start_pair, models) -> None:
    server = await start_pair(onnx_models.scaled(2), onnx_models.scaled(2.0000001), isolation="process")
    served = models / "m" / "1.1.0" / "model.onnx"
    served.chmod(0o644)
    served.write_bytes(onnx_models.scaled(3).SerializeToString())
    live = await predict(server, numbered(4, x=X))
    assert live.errors == []
    deadline = time.monotonic() + 100
    while (comparison := await report(server, "1.1.0")).state == "open":
        assert time.monotonic() < deadline, comparison
        await asyncio.sleep(0.02)
    assert "model.onnx is not what was published" in comparison.state
    assert not {"agreed", "disagreed"} & set(comparison.outcomes)


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_shadow_that_hangs_is_ended_and_the_lane_goes_on(start_pair, monkeypatch, isolation: str) -> None:
    monkeypatch.setattr(runner, "_GRACE_SECONDS", 60.0)  # copies have the processor last
    server = await start_pair(onnx_models.adds_count(), onnx_models.slow(), isolation=isolation, timeout_s=0.3)
    live = await predict(server, numbered(3, x=X, n=FOREVER))
    comparison = await settled(server, "1.1.0", 3)
    assert dict(comparison.outcomes) == {"timed_out": 3}
    (lane,) = server.parts.serving.shadows.of("m")
    (_, copies) = lane._runners[True]
    copies.result()._timeout = 100.0  # the same runner, and whoever hangs no more may wait for the processor
    more = await predict(server, numbered(20, 3, x=X, n=0))
    assert live.errors == more.errors == []
    assert live.outputs("y") + more.outputs("y") == [[1.0] * 4] * 23
    comparison = await settled(server, "1.1.0", 23)
    assert dict(comparison.outcomes) == {"agreed": 20, "timed_out": 3}
    assert comparison.state == "open"
    await only_the_baseline_answered(server, 23)


async def test_a_shadow_that_hangs_inside_one_node_closes_its_lane(start_pair, monkeypatch) -> None:
    monkeypatch.setattr(runner, "_GRACE_SECONDS", 0.1)
    lane = {"isolation": "thread", "timeout_s": 0.1, "max_inflight": 1}  # a child process would be ended
    # By itself this version is isolated, and so are its copies then.
    here = {"isolation": "thread"}
    server = await start_pair(onnx_models.adds_count(), onnx_models.one_long_node(), runtime=here, **lane)
    live = await predict(server, numbered(8, x=X, n=4000))
    assert live.errors == []
    sent, deadline = 8, time.monotonic() + 100
    while (comparison := await report(server, "1.1.0")).state == "open":
        assert time.monotonic() < deadline, comparison
        if (
            accounted(comparison) == sent
        ):  # where others have the processor, the time can be over before the long node begins
            live = await predict(server, numbered(1, sent, x=X, n=4000))
            assert live.errors == []
            sent += 1
        await asyncio.sleep(0.02)
    assert "a run hangs" in comparison.state
    after = await predict(server, numbered(8, sent, x=X, n=1))
    assert after.errors == []
    comparison = await settled(server, "1.1.0", sent + 8)
    hung = comparison.outcomes["timed_out"]  # copies that were one batch, or each the only one of a run
    assert 1 <= hung <= sent
    assert dict(comparison.outcomes) == {"timed_out": hung}
    assert dict(comparison.dropped) == {"closed": sent + 8 - hung}
    await only_the_baseline_answered(server, sent + 8)
    # Who names the shadow anew opens the lane again.
    await put(server, policy("1.0.0", {"1.1.0": 0.5}))
    assert (await report(server, "1.1.0")).state == "open"


async def test_a_shadow_that_is_many_times_slower_is_shed_and_nobody_waits_for_it(start_pair) -> None:
    server = await start_pair(onnx_models.adds_count(), onnx_models.slow(), max_queue_requests=4)
    live = await predict(server, numbered(200, x=X, n=500))
    assert live.errors == []
    assert live.outputs("y") == [[1.0] * 4] * 200
    comparison = await settled(server, "1.1.0", 200)
    assert comparison.dropped["queue_items"] > 0
    assert set(comparison.dropped) == {"queue_items"}
    assert comparison.outcomes["disagreed"] > 0  # `slow` adds n
    assert set(comparison.outcomes) == {"disagreed"}
    await only_the_baseline_answered(server, 200)


async def test_a_shadow_that_answers_nan(start_pair) -> None:
    server = await start_pair(scaled(1), onnx_models.not_a_number())
    live = await predict(server, numbered(20, x=X))
    assert live.outputs("y") == [[1.0] * 4] * 20
    comparison = await settled(server, "1.1.0", 20, worst=1)
    assert dict(comparison.outcomes) == {"disagreed": 20}
    assert dict(comparison.outputs[0].mismatches) == {"nonfinite": 20}
    assert comparison.worst[0].detail.startswith("4 of 4 elements are NaN")
    assert comparison.agreement == 0.0
    await only_the_baseline_answered(server, 20)


async def test_a_shadow_that_meets_its_memory_limit(start_pair) -> None:
    limit = {"isolation": "process", "memory_limit_bytes": "256MiB"}
    server = await start_pair(onnx_models.adds_count(), onnx_models.grows(), **limit)
    live = await predict(server, numbered(5, x=X, n=2**28) + numbered(5, 5, x=X, n=10))
    assert live.errors == []
    comparison = await settled(server, "1.1.0", 10)
    assert dict(comparison.outcomes) == {"memory": 5, "agreed": 5}
    assert comparison.state == "open"
    await only_the_baseline_answered(server, 10)


@on_x86
async def test_a_native_crash_takes_only_the_shadows_process(start_pair) -> None:
    server = await start_pair(onnx_models.divides_safely(), onnx_models.divides(), isolation="process")
    crash = {"x": np.array([[-(2**31)]], np.int32), "d": np.array([-1], np.int32)}
    good = {"x": np.array([[8]], np.int32), "d": np.array([2], np.int32)}
    for start in range(0, 8, 2):
        live = await predict(server, numbered(1, start, **crash) + numbered(1, start + 1, **good), at_once=1)
        assert live.errors == []
        comparison = await settled(server, "1.1.0", start + 2)
    # A crash ends what ran with it; the child is started again for the next.
    assert dict(comparison.outcomes) == {"crashed": 4, "agreed": 4}
    assert comparison.state == "open"
    await only_the_baseline_answered(server, 8)


@on_x86
async def test_a_shadow_that_crashes_again_and_again_is_given_up(start_pair) -> None:
    server = await start_pair(onnx_models.divides_safely(), onnx_models.divides(), isolation="process")
    crash = {"x": np.array([[-(2**31)]], np.int32), "d": np.array([-1], np.int32)}
    for start in range(7):
        live = await predict(server, numbered(1, start, **crash))
        assert live.errors == []
        comparison = await settled(server, "1.1.0", start + 1)
    assert dict(comparison.outcomes) == {"crashed": 5}
    assert dict(comparison.dropped) == {"closed": 2}
    assert "ended 5 times in a row" in comparison.state
    assert "SIGFPE" in comparison.state
    await only_the_baseline_answered(server, 7)


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_shadow_that_hangs_does_not_hold_the_servers_end(publish_model, models, isolation: str) -> None:
    publish_model("m", "1.0.0", onnx_models.adds_count())
    publish_model("m", "1.1.0", onnx_models.slow(), release=False)
    settings = make_settings(models, shadow={"isolation": isolation, "timeout_s": 3600})
    async with running(settings, make_logger("json", "warning")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        await put(server, policy("1.0.0", {"1.1.0": 1.0}))
        assert (await predict(server, numbered(10, x=X, n=FOREVER))).errors == []
        lane = server.parts.serving.shadows.of("m")[0]
        while not lane.running:
            await asyncio.sleep(0.01)
        assert accounted(await report(server, "1.1.0")) == 0
        began = time.monotonic()
    assert time.monotonic() - began < 60, "the model takes hours"
