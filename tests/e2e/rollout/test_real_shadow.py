"""A real version behind another, on real files: the report is what ONNX Runtime gives when it is asked directly."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from magika.features import features_v3
from routing_wire import policy, put
from shadow_wire import PATIENT, predict, settled
from wire import request
from zoo import fetch

pytestmark = pytest.mark.slow

ALONE = {"enabled": False}
"""As ONNX Runtime is asked here: magika's scores move by up to 0.001 with what else is in the batch."""


def real_contents() -> list[bytes]:
    """Files of two packages as installed, each whole and its first 100 bytes, which are harder to tell."""
    found: list[Path] = []
    for package in (np, onnx):
        root = Path(package.__file__).parent
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        found += files[:: max(1, len(files) // 32)]
    whole = [path.read_bytes() for path in found]
    return whole + [content[:100] for content in whole]


def scores_of(version: str, inputs: list[np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(fetch("magika", version), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["target_label"], {"bytes": one})[0] for one in inputs]).astype(np.float64)


def no_tie(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Tells which rows have the same winner, or two that are well beyond the tolerance of float32, 0.001 of a score."""
    won, wins, rows = expected.argmax(axis=1), actual.argmax(axis=1), np.arange(len(expected))
    apart = (expected[rows, won] - expected[rows, wins] > 2e-3) & (actual[rows, wins] - actual[rows, won] > 2e-3)
    return (won == wins) | apart


async def test_magika_3_3_behind_3_2_is_told_as_onnx_runtime_sees_it(publish_model, start_server) -> None:
    publish_model("m", "3.2.0", fetch("magika", "3.2.0"))
    publish_model("m", "3.3.0", fetch("magika", "3.3.0"), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.1}, batching=ALONE)
    await put(server, policy("3.2.0", {"3.3.0": 1.0}))
    inputs = [features_v3(content) for content in real_contents()]
    expected, actual = scores_of("3.2.0", inputs), scores_of("3.3.0", inputs)
    clear = no_tie(expected, actual)
    inputs, expected, actual = [inputs[n] for n in np.flatnonzero(clear)], expected[clear], actual[clear]
    live = await predict(server, [request("m", request_id=f"r{n}", bytes=one) for n, one in enumerate(inputs)])
    assert live.errors == []
    comparison = await settled(server, "3.3.0", len(inputs), worst=5)

    won, wins = expected.argmax(axis=1), actual.argmax(axis=1)
    rows = np.arange(len(inputs))
    margins = expected[rows, won] - expected[rows, wins]
    moved = np.flatnonzero(won != wins)
    differences = np.abs(expected - actual).max(axis=1)
    assert len(inputs) > 100
    assert 5 < len(moved) < len(inputs) / 2

    (output,) = comparison.outputs
    assert dict(comparison.outcomes) == {"agreed": len(inputs) - len(moved), "disagreed": len(moved)}
    assert dict(output.mismatches) == {"top1": len(moved)}
    assert output.top1 == pytest.approx(1 - len(moved) / len(inputs))
    assert output.max_abs == pytest.approx(differences.max(), abs=1e-4)
    assert output.mean_abs == pytest.approx(differences.mean(), abs=1e-4)
    assert comparison.noise_disagreements == 0
    assert comparison.agreement == pytest.approx(1 - len(moved) / len(inputs))
    worst = [int(one.request_id.removeprefix("r")) for one in comparison.worst]
    assert len({*worst} & {*moved.tolist()}) == 5
    assert [one.margin for one in comparison.worst] == pytest.approx(margins[worst], abs=1e-4)
    assert [one.margin for one in comparison.worst] == pytest.approx(np.sort(margins[moved])[::-1][:5], abs=1e-4)


async def test_a_real_version_behind_itself_never_disagrees(publish_model, start_server) -> None:
    publish_model("m", "3.2.0", fetch("magika", "3.2.0"))
    publish_model("m", "3.2.1", fetch("magika", "3.2.0"), release=False)
    server = await start_server(shadow=PATIENT | {"noise_rate": 0.1}, batching=ALONE)
    await put(server, policy("3.2.0", {"3.2.1": 1.0}))
    inputs = [features_v3(content) for content in real_contents()]
    live = await predict(server, [request("m", request_id=f"r{n}", bytes=one) for n, one in enumerate(inputs)])
    assert live.errors == []
    comparison = await settled(server, "3.2.1", len(inputs))
    assert dict(comparison.outcomes) == {"agreed": len(inputs)}
    assert comparison.agreement == 1.0
    assert comparison.outputs[0].max_abs < 1e-5
