"""Random graphs: where rows are proved to be independent, they get the same answers together as alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from onnx_models import Dim
from rowwise_models import FLOAT, graph, node
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.rowwise.proof import follow
from turnout.serving.rowwise.states import Rows, Shared, State

T = 3
"""Size of the dimension besides the batch axis that is free."""


@dataclass
class Build:
    """A graph being made; every tensor is float32."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray] = field(default_factory=dict)
    tensors: list[str] = field(default_factory=lambda: ["x", "z", "c"])

    def constant(self, value: object) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, operator: str, inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(operator, inputs, name, **attributes))
        return name


AXES = st.integers(-3, 2)
SIZES = st.sampled_from([-1, 0, 1, 2, 4, T])


@st.composite
def graphs(draw: st.DrawFn) -> Build:
    build = Build()
    for _ in range(draw(st.integers(1, 6))):
        one, other = (draw(st.sampled_from([*build.tensors[-3:], "x"])) for _ in range(2))
        build.tensors.append(draw(st.sampled_from(STEPS))(draw, build, one, other))
    return build


def _unary(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    return build.add(draw(st.sampled_from(["Neg", "Relu", "Identity", "Sigmoid"])), one)


def _binary(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    return build.add(draw(st.sampled_from(["Add", "Mul", "Max", "Sub", "MatMul"])), f"{one} {other}")


def _weights(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    weights = build.constant(np.linspace(-1, 1, 16).reshape(4, 4))
    return build.add("MatMul", draw(st.sampled_from([f"{one} {weights}", f"{weights} {one}"])))


def _constant(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    shape = draw(st.sampled_from([(), (4,), (T, 4), (1, 4), (2, 1), (T, 1), (1, T, 1), (2, 1, 1)]))
    return build.add("Add", f"{one} {build.constant(np.linspace(0, 1, int(np.prod(shape))).reshape(shape))}")


def _reduce(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    axes = build.constant(np.array(draw(st.lists(AXES, min_size=1, max_size=2))))
    operator = draw(st.sampled_from(["ReduceSum", "ReduceMax", "ReduceMean"]))
    return build.add(operator, f"{one} {axes}", keepdims=draw(st.integers(0, 1)))


def _along(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    axis = draw(AXES)
    match draw(st.integers(0, 4)):
        case 0:
            return build.add("Softmax", one, axis=axis)
        case 1:
            return build.add("CumSum", f"{one} {build.constant(np.array(axis))}")
        case 2:
            return build.add("Concat", f"{one} {other}", axis=axis)
        case 3:
            return build.add("Flatten", one, axis=axis)
        case _:
            return build.add(
                "Gather", f"{one} {build.constant(np.array(draw(st.sampled_from([0, -1, [0, 1], [1]]))))}", axis=axis
            )


def _slice(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    start, end, axis, step = (
        draw(s) for s in (st.integers(-2, 2), st.sampled_from([1, 2, -1, 2**40]), AXES, st.sampled_from([1, 1, -1]))
    )
    names = [build.constant(np.array([value])) for value in (start, end, axis, step)]
    return build.add("Slice", " ".join([one, *names]))


def _arrange(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    match draw(st.integers(0, 3)):
        case 0:
            return build.add("Transpose", one, perm=draw(st.permutations(range(draw(st.integers(2, 3))))))
        case 1:
            return build.add("Unsqueeze", f"{one} {build.constant(np.array([draw(AXES)]))}")
        case 2:
            return build.add("Squeeze", f"{one} {build.constant(np.array([draw(AXES)]))}")
        case _:
            return build.add(
                "Reshape", f"{one} {build.constant(np.array(draw(st.lists(SIZES, min_size=1, max_size=4))))}"
            )


def _shaped(draw: st.DrawFn, build: Build, one: str, other: str) -> str:
    """Reshape or Expand to sizes out of a tensor's shape, as exporters write it."""
    size = build.add("Shape", other)
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            parts.append(build.constant(np.array([draw(SIZES)])))
            continue
        picked = build.add("Gather", f"{size} {build.constant(np.array([draw(st.integers(-2, 1))]))}", axis=0)
        if draw(st.integers(0, 2)) == 0:
            factor = build.constant(np.array([draw(st.sampled_from([1, 2, 4]))]))
            picked = build.add(draw(st.sampled_from(["Mul", "Div", "Add"])), f"{picked} {factor}")
        parts.append(picked)
    shape = build.add("Concat", " ".join(parts), axis=0)
    return build.add(draw(st.sampled_from(["Reshape", "Reshape", "Expand"])), f"{one} {shape}")


STEPS = [_unary, _binary, _weights, _constant, _reduce, _along, _slice, _arrange, _arrange, _shaped]
INPUTS: Mapping[str, tuple[int, list[Dim]]] = {
    "x": (FLOAT, ["n", "t", 4]),
    "z": (FLOAT, ["n", 4]),
    "c": (FLOAT, ["t", 4]),
}
SIGNATURE = Signature(
    tuple(TensorSpec(name, DataType.FLOAT32, tuple(shape)) for name, (_, shape) in INPUTS.items()), ()
)


def _model(build: Build) -> ModelProto:
    proto = graph(build.nodes, INPUTS, dict.fromkeys(build.tensors[3:], (FLOAT, 0)), build.constants, 18)
    for value in proto.graph.output:  # of any rank
        value.type.tensor_type.ClearField("shape")
    return proto


def _run(session: ort.InferenceSession, name: str, inputs: Mapping[str, NDArray]) -> NDArray | None:
    try:
        return session.run([name], dict(inputs))[0]
    except Exception:  # noqa: BLE001 - most random graphs fit no tensor
        return None


def _wrong(session: ort.InferenceSession, name: str, state: State, requests: list[dict[str, NDArray]]) -> bool:
    alone = [_run(session, name, request) for request in requests]
    together = {n: np.concatenate([r[n] for r in requests]) if n in "xz" else requests[0][n] for n in INPUTS}
    joined = _run(session, name, together)
    singles = [single for single in alone if single is not None]
    if joined is None or len(singles) < len(requests):
        return False  # such a run is made again, one request after another
    if isinstance(state, Shared):
        return not all(s.shape == joined.shape and np.allclose(s, joined, rtol=1e-3, atol=1e-4) for s in singles)
    assert isinstance(state, Rows)
    if len({s.ndim for s in singles}) > 1 or singles[0].ndim != state.rank:
        return True
    if not state.plain:
        return False
    expected = np.concatenate(singles, axis=state.axis)
    return expected.shape != joined.shape or not np.allclose(expected, joined, rtol=1e-3, atol=1e-4, equal_nan=True)


@settings(max_examples=150)
@given(build=graphs(), seed=st.integers(0, 3))
def test_rows_that_are_proved_to_keep_to_themselves_do(build: Build, seed: int):
    proto = _model(build)
    states = follow(describe(proto), SIGNATURE, {"x": 0, "z": 0})
    known = {n: s for n, s in states.items() if isinstance(s, Rows) or (isinstance(s, Shared) and not s.counts_rows)}
    if not known:
        return
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - likewise
        return
    random = np.random.default_rng(seed)
    for split, t in (((1, 1), T), ((1, 2), 4), ((2, 1, 1), 1), ((4,), T)):
        c = random.standard_normal((t, 4)).astype(np.float32)
        requests = [
            {
                "x": random.standard_normal((n, t, 4)).astype(np.float32),
                "z": random.standard_normal((n, 4)).astype(np.float32),
                "c": c,
            }
            for n in split
        ]
        for name, state in known.items():
            assert not _wrong(session, name, state, requests), (name, state)
