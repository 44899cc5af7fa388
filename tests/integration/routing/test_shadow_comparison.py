"""What is made of a shadow's answers: tolerances, scores, the baseline's own noise, and the worst that is kept."""

import asyncio

import numpy as np
import pytest

import onnx_models
from onnx_models import scaled
from routing_wire import policy, put
from shadow_wire import PATIENT, numbered, predict, report, settled
from turnout.errors import ConfigError
from turnout.registry.manifest.manifest import Tolerance
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.routing.shadow.noise import EARLY_REPEATS
from turnout_proto import tensors
from wire import request

X = np.ones((1, 4), np.float32)

pytestmark = pytest.mark.slow


def rows(count: int) -> list:
    """Requests with values of their own."""
    draw = np.random.default_rng(11)
    return [request("m", request_id=f"r{n}", x=draw.normal(size=(1, 4)).astype(np.float32)) for n in range(count)]


@pytest.fixture
def compare_pair(publish_model, start_server):
    """Has copies of requests answered by two models; returns the server and what is known then."""

    async def compared(baseline, shadow, calls, worst=0, metadata=None, **settings):
        publish_model("m", "1.0.0", baseline, metadata=metadata or VersionMetadata())
        publish_model("m", "1.1.0", shadow, release=False)
        server = await start_server(shadow=PATIENT | {"noise_rate": 0} | settings)
        await put(server, policy("1.0.0", {"1.1.0": 1.0}))
        assert (await predict(server, calls)).errors == []
        return server, await settled(server, "1.1.0", len(calls), worst, kept=worst)

    return compared


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_two_versions_of_one_graph_never_disagree(compare_pair, isolation: str) -> None:
    _, comparison = await compare_pair(onnx_models.softmax(), onnx_models.softmax(), rows(200), isolation=isolation)
    assert dict(comparison.outcomes) == {"agreed": 200}
    assert comparison.agreement == 1.0
    (output,) = comparison.outputs
    assert (dict(output.mismatches), output.top1, output.top_k) == ({}, 1.0, 1.0)
    assert output.max_abs < 1e-6


async def test_what_the_baseline_does_to_itself_is_taken_off(compare_pair) -> None:
    noisy = onnx_models.random_noise(seed=1.0), onnx_models.random_noise(seed=2.0)
    server, comparison = await compare_pair(*noisy, rows(50), noise_rate=1.0)
    assert dict(comparison.outcomes) == {"disagreed": 50}
    async with asyncio.timeout(100):
        while comparison.noise_runs < 50:
            await asyncio.sleep(0.02)
            comparison = await report(server, "1.1.0")
    assert (comparison.noise_runs, comparison.noise_disagreements) == (50, 50)
    assert comparison.agreement == 1.0


async def test_of_the_first_copies_and_then_of_a_share_only(compare_pair) -> None:
    server, comparison = await compare_pair(scaled(1), scaled(1), rows(100), noise_rate=0.1)
    async with asyncio.timeout(100):
        while comparison.noise_runs < EARLY_REPEATS + 5:  # the last are under way
            await asyncio.sleep(0.02)
            comparison = await report(server, "1.1.0")
    assert comparison.noise_runs < EARLY_REPEATS + 8


async def test_the_manifests_tolerances_hold_and_the_configured_ones_go_before(compare_pair) -> None:
    wide = VersionMetadata(tolerances={"y": Tolerance(1.0, 0.0)})
    _, comparison = await compare_pair(scaled(1), scaled(1.5), numbered(5, x=X), metadata=wide)
    assert dict(comparison.outcomes) == {"agreed": 5}


async def test_configured_tolerances_go_before_the_manifests(compare_pair) -> None:
    wide = VersionMetadata(tolerances={"y": Tolerance(1.0, 0.0)})
    narrow = {"tolerances": {"y": {"atol": 0.1, "rtol": 0.0}}}
    _, comparison = await compare_pair(scaled(1), scaled(1.5), numbered(5, x=X), metadata=wide, **narrow)
    assert dict(comparison.outcomes) == {"disagreed": 5}


async def test_scores_agree_by_their_winner(compare_pair) -> None:
    calls = rows(100)
    _, comparison = await compare_pair(onnx_models.softmax(), onnx_models.softmax(temperature=0.5), calls)
    # Another temperature moves every value and no winner.
    assert dict(comparison.outcomes) == {"agreed": 100}
    assert comparison.outputs[0].max_abs > 0.05


async def test_another_winner_is_a_disagreement_and_the_widest_margin_the_worst(compare_pair) -> None:
    bias = (0.0, 0.5, 0.0, 0.0)
    calls = rows(200)
    inputs = np.concatenate([tensors.decode(call.inputs[0]) for call in calls])
    _, comparison = await compare_pair(
        onnx_models.softmax(), onnx_models.softmax(bias=bias), calls, worst=3, keep_worst=5
    )

    def scores(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values.astype(np.float64))
        return powers / powers.sum(axis=1, keepdims=True)

    before, after = scores(inputs), scores(inputs + np.float32(bias))
    won, wins = before.argmax(axis=1), after.argmax(axis=1)
    moved = np.flatnonzero(won != wins)
    margins = before[moved, won[moved]] - before[moved, wins[moved]]
    assert 0 < len(moved) < 200
    assert dict(comparison.outcomes) == {"agreed": 200 - len(moved), "disagreed": len(moved)}
    assert dict(comparison.outputs[0].mismatches) == {"top1": len(moved)}
    assert comparison.outputs[0].top1 == pytest.approx(1 - len(moved) / 200)
    assert comparison.agreement == pytest.approx(1 - len(moved) / 200)
    widest = np.argsort(-margins)[:3]
    assert [one.request_id for one in comparison.worst] == [f"r{moved[place]}" for place in widest]
    assert [one.margin for one in comparison.worst] == pytest.approx(margins[widest], rel=1e-4)
    assert all(not one.inputs for one in comparison.worst)


async def test_scores_can_be_declared_and_denied(compare_pair) -> None:
    calls = rows(50)
    denied = {"scores": {"y": False}}
    _, comparison = await compare_pair(onnx_models.softmax(), onnx_models.softmax(temperature=0.5), calls, **denied)
    assert comparison.outcomes["disagreed"] == 50
    assert not comparison.outputs[0].HasField("top1")


async def test_logits_are_compared_by_winner_where_the_manifest_declares_them(compare_pair) -> None:
    declared = VersionMetadata(scores={"y": True})
    _, comparison = await compare_pair(scaled(1), scaled(2), rows(50), metadata=declared)
    assert dict(comparison.outcomes) == {"agreed": 50}
    assert comparison.outputs[0].top1 == 1.0


async def test_a_shadow_that_takes_something_else_cannot_be_compared_and_says_so(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", onnx_models.look_up(), release=False)
    server = await start_server(shadow=PATIENT)
    await put(server, policy("1.0.0", {"2.0.0": 1.0}), force=True)
    assert (await predict(server, numbered(5, x=X))).errors == []
    comparison = await settled(server, "2.0.0", 5)
    assert dict(comparison.outcomes) == {"invalid": 5}
    assert not comparison.HasField("agreement")


async def test_inputs_are_kept_only_where_that_is_configured(compare_pair) -> None:
    _, comparison = await compare_pair(scaled(1), scaled(2), numbered(3, x=X), worst=3, keep_inputs=True)
    assert [tensors.decode(one.inputs[0]).tolist() for one in comparison.worst] == [X.tolist()] * 3


HOOKS = """
def hide(model, inputs):
    return {name: array * 0 for name, array in inputs.items() if model == "m"}


def fail(model, inputs):
    raise RuntimeError("no")


nothing = 3
"""


@pytest.fixture
def hooks(tmp_path, monkeypatch) -> None:
    (tmp_path / "redaction_under_test.py").write_text(HOOKS)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("hooks")
async def test_a_hook_decides_what_is_kept_of_inputs(compare_pair) -> None:
    hook = {"keep_inputs": True, "redact": "redaction_under_test:hide"}
    _, comparison = await compare_pair(scaled(1), scaled(2), numbered(3, x=X), worst=3, **hook)
    assert [tensors.decode(one.inputs[0]).tolist() for one in comparison.worst] == [(0 * X).tolist()] * 3


@pytest.mark.usefixtures("hooks")
async def test_a_hook_that_fails_keeps_nothing(compare_pair) -> None:
    hook = {"keep_inputs": True, "redact": "redaction_under_test:fail"}
    _, comparison = await compare_pair(scaled(1), scaled(2), numbered(3, x=X), worst=3, **hook)
    assert dict(comparison.outcomes) == {"disagreed": 3}
    assert [len(one.inputs) for one in comparison.worst] == [0, 0, 0]


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("name", ["no_such_module:hide", "redaction_under_test:absent", "redaction_under_test:nothing"])
async def test_a_hook_that_is_none_stops_the_server_from_starting(start_server, publish_model, name: str) -> None:
    publish_model("m", "1.0.0", scaled(1))
    with pytest.raises(ConfigError, match=name):
        await start_server(shadow={"keep_inputs": True, "redact": name})
