"""A lane counts each copy once, whatever ends its run, and charges a shadow with nothing but its own answers."""

import asyncio

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import onnx_models
from onnx_models import model, rows_but, scaled, tensor
from routing_wire import policy, put, scrape
from shadow_wire import PATIENT, numbered, predict, settled
from turnout.registry.manifest.manifest import BatchingDeclaration
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.routing.shadow import lane
from wire import request

X = np.ones((1, 4), np.float32)
FOREVER = np.array(10**9)
"""Rounds of `onnx_models.slow` that take hours."""

LIMIT_SECONDS = 100

pytestmark = pytest.mark.slow


def sum_of_two() -> ModelProto:
    """y = x + z, of two inputs that share both dimensions."""
    return model(
        [helper.make_node("Add", ["x", "z"], ["y"])],
        [tensor(name, TensorProto.FLOAT, ["batch", "n"]) for name in ("x", "z")],
        [tensor("y", TensorProto.FLOAT, ["batch", "n"])],
    )


def two_outputs() -> ModelProto:
    """y = x, and more = x."""
    return model(
        [helper.make_node("Identity", ["x"], [name]) for name in ("y", "more")],
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor(name, TensorProto.FLOAT, ["batch", 4]) for name in ("y", "more")],
    )


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_run_that_ends_with_its_lane_is_not_the_shadows_failure(
    publish_model, start_server, isolation: str
) -> None:
    publish_model("m", "1.0.0", onnx_models.adds_count())
    publish_model("m", "1.1.0", onnx_models.slow(), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.0, "isolation": isolation})
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    assert (await predict(server, numbered(6, x=X, n=FOREVER))).errors == []
    (lane_of_pair,) = server.parts.serving.shadows.of("m")
    async with asyncio.timeout(LIMIT_SECONDS):
        while not lane_of_pair.running:
            await asyncio.sleep(0.02)
    await put(server, policy("1.0.0"))
    comparison = await settled(server, "1.1.0", 6)
    assert (comparison.state, dict(comparison.outcomes), dict(comparison.dropped)) == ("ended", {}, {"closed": 6})
    charged = {
        key for key, count in (await scrape(server)).items() if key[0] == "turnout_shadow_requests_total" and count
    }
    assert charged == set()


@pytest.mark.parametrize(
    ("baseline", "shadow", "x"),
    [
        (onnx_models.identity(shape=("batch", "n")), sum_of_two(), X),  # its other input shares a dimension with x
        (onnx_models.scalar(), scaled(2), np.float32(3)),  # x has no axis 0
    ],
)
async def test_copies_that_a_shadow_does_not_accept_are_invalid_and_the_lane_goes_on(
    publish_model, start_server, baseline, shadow, x
) -> None:
    publish_model("m", "1.0.0", baseline)
    publish_model("m", "2.0.0", shadow, release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.0})
    await put(server, policy("1.0.0", {"2.0.0": 1.0}), force=True)
    for round_ in range(2):
        assert (await predict(server, numbered(20, 20 * round_, x=x))).errors == []
        comparison = await settled(server, "2.0.0", 20 * (round_ + 1))
        assert (comparison.state, dict(comparison.outcomes)) == ("open", {"invalid": 20 * (round_ + 1)})


async def test_an_output_that_a_shadow_does_not_have_is_missing(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", two_outputs())
    publish_model("m", "2.0.0", scaled(1), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.0})
    await put(server, policy("1.0.0", {"2.0.0": 1.0}), force=True)
    calls = [request("m", request_id=f"r{number}", x=X, outputs=["more"]) for number in range(5)]
    assert (await predict(server, calls)).errors == []
    comparison = await settled(server, "2.0.0", 5)
    assert (comparison.state, dict(comparison.outcomes)) == ("open", {"disagreed": 5})
    assert {output.name: dict(output.mismatches) for output in comparison.outputs} == {"more": {"missing": 5}}


async def test_copies_whose_shared_run_does_not_add_up_run_alone_and_the_version_is_demoted(
    publish_model, start_server
) -> None:
    declared = VersionMetadata(batching=BatchingDeclaration(axes={"x": 0, "y": 0}))
    for version in ("1.0.0", "1.1.0"):
        publish_model("m", version, rows_but(123), release=version == "1.0.0", metadata=declared)
    batching = {"only_where_it_pays": False, "max_rows": 8}
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.0, "max_inflight": 1}, batching=batching)
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    values = [123.0, 1.0, 2.0, 123.0] * 10
    calls = [
        request("m", request_id=f"r{number}", x=np.full((1, 2), value, np.float32))
        for number, value in enumerate(values)
    ]
    assert (await predict(server, calls, at_once=20)).errors == []
    comparison = await settled(server, "1.1.0", len(values))
    assert (comparison.state, dict(comparison.outcomes)) == ("open", {"agreed": len(values)})
    demoted = {k: v for k, v in (await scrape(server)).items() if k[0] == "turnout_batching_demoted_total"}
    assert demoted["turnout_batching_demoted_total", "model=m", "version=1.1.0"] == 1


async def test_a_hook_that_takes_its_time_holds_up_no_request(
    publish_model, start_server, tmp_path, monkeypatch
) -> None:
    (tmp_path / "slow_redaction_under_test.py").write_text(
        "import threading\n"
        "called, released, held = threading.Event(), threading.Event(), []\n"
        "def hide(model, inputs):\n"
        "    called.set()\n"
        "    held.append(released.wait(30))\n"
        "    return {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(2), release=False)
    hook = {"keep_inputs": True, "redact": "slow_redaction_under_test:hide"}
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.0} | hook)
    import slow_redaction_under_test as hooks

    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    assert (await predict(server, numbered(1, x=X))).errors == []
    assert await asyncio.to_thread(hooks.called.wait, LIMIT_SECONDS)
    assert (await predict(server, numbered(20, 1, x=X))).errors == []
    hooks.released.set()
    await settled(server, "1.1.0", 21)
    assert all(hooks.held), "the requests were answered only once the hook had given up"


@pytest.mark.parametrize("step", ["shape_of", "compare"])
async def test_an_error_that_nobody_foresaw_closes_the_lane_and_says_so(
    publish_model, start_server, monkeypatch, step: str
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(1), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.0})
    await put(server, policy("1.0.0", {"1.1.0": 0.5}))
    with monkeypatch.context() as patched:
        patched.setattr(lane, step, lambda *_: 1 / 0)
        await put(server, policy("1.0.0", {"1.1.0": 1.0}))
        assert (await predict(server, numbered(5, x=X))).errors == []
        comparison = await settled(server, "1.1.0", 5)
    assert comparison.state == "an unexpected error; see the server's log"
    assert set(comparison.dropped) == {"closed"}
    # Who changes the policy opens the lane again.
    await put(server, policy("1.0.0", {"1.1.0": 0.5}))
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    assert (await predict(server, numbered(5, 5, x=X))).errors == []
    comparison = await settled(server, "1.1.0", 10)
    assert (comparison.state, comparison.outcomes["agreed"]) == ("open", 5)
