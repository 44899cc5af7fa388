"""ONNX's own conformance models: where rows are proved to be independent, ONNX Runtime answers them so.

Each model is tried with every likely batch axis made free, with the other inputs as they are and as constants. With
TURNOUT_WHOLE_CORPUS=1 all models are tried, else one of each operator.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.reference.ops import op_pool_common

from turnout.errors import InvalidModel
from turnout.registry.onnx.graph_reader import describe
from turnout.registry.onnx.model import read_model
from turnout.serving.rowwise.proof import follow
from turnout.serving.rowwise.states import Rows, Shared, State

WHOLE = bool(os.environ.get("TURNOUT_WHOLE_CORPUS"))
MODELS_OF_AN_OPERATOR = 10_000 if WHOLE else 1
SPLITS = [(1, 1), (1, 2, 1), (2, 3)]
"""How many rows the requests have that are put together."""


@dataclass(frozen=True)
class Case:
    """A conformance model with inputs that it takes."""

    name: str
    model: ModelProto
    inputs: Mapping[str, NDArray]


def no_pool(padded: NDArray, x_shape: Sequence[int], kernel: object, strides: object, out_shape: Sequence[int],
            *_: object, **__: object) -> NDArray:  # fmt: skip
    """Stands for ONNX's own pooling, in Python, of what cases are expected to answer: nobody asks that here."""
    return np.zeros((*x_shape[:2], *out_shape), padded.dtype)


def corpus() -> Iterator[Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op_pool_common, "pool", no_pool)  # half of the CPU that collecting takes
        cases = collect_testcases(None)
    for case in cases:
        names = [value.name for value in case.model.graph.input]
        yield Case(case.name, case.model, dict(zip(names, case.data_sets[0][0], strict=False)))
    data = Path(onnx.backend.test.__file__).parent / "data"
    for folder in sorted([*(data / "pytorch-operator").iterdir(), *(data / "pytorch-converted").iterdir()]):
        model = onnx.load(folder / "model.onnx")
        inputs = {}
        for index, value in enumerate(model.graph.input):
            file = folder / "test_data_set_0" / f"input_{index}.pb"
            if file.exists():
                inputs[value.name] = numpy_helper.to_array(TensorProto.FromString(file.read_bytes()))
        yield Case(folder.name, model, inputs)


def chosen() -> list[Case]:
    seen: Counter[str] = Counter()
    cases = []
    for case in corpus():
        operator = case.model.graph.node[0].op_type if len(case.model.graph.node) == 1 else case.name[:16]
        if len(case.inputs) == len(case.model.graph.input) and seen[operator] < MODELS_OF_AN_OPERATOR:
            seen[operator] += 1
            if all(_is_tensor(value, case.inputs[value.name]) for value in case.model.graph.input):
                cases.append(case)
    return cases


def _is_tensor(value: onnx.ValueInfoProto, example: object) -> bool:
    shape = value.type.tensor_type.shape
    return isinstance(example, np.ndarray) and len(shape.dim) == example.ndim


def likely_axes(inputs: Mapping[str, NDArray]) -> list[dict[str, int]]:
    first = {name: 0 for name, value in inputs.items() if value.ndim and value.shape[0]}
    second = {name: 1 for name, value in inputs.items() if value.ndim > 1 and value.shape[1]}
    guesses = [first, second, *({name: 0} for name in list(first)[:3]), *({name: 1} for name in list(second)[:2])]
    return [guess for index, guess in enumerate(guesses) if guess and guess not in guesses[:index]]


def freed(case: Case, axes: Mapping[str, int], *, constant: bool) -> ModelProto:
    """Returns the model with free batch axes; the other inputs made initialisers if `constant`."""
    model = ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    for value in graph.input:
        if value.name in axes:
            dimension = value.type.tensor_type.shape.dim[axes[value.name]]
            dimension.Clear()
            dimension.dim_param = "batch"
    for value in graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()
    del graph.value_info[:]
    if constant:
        graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in case.inputs.items() if n not in axes)
        kept = [value for value in graph.input if value.name in axes]
        del graph.input[:]
        graph.input.extend(kept)
    return model


def random_rows(random: np.random.Generator, like: NDArray, rows: int, axis: int) -> NDArray:
    shape = [*like.shape[:axis], rows, *like.shape[axis + 1 :]]
    if like.dtype == object:
        terms = np.array(["the", "", "A", "quick", "Fox"], dtype=object)
        return np.asarray(random.choice(terms, shape), dtype=object)
    if like.dtype == np.bool_:
        return random.integers(0, 2, shape).astype(np.bool_)
    if like.dtype.kind in "iu":
        return random.integers(int(like.min(initial=0)), int(like.max(initial=1)) + 1, shape).astype(like.dtype)
    return random.standard_normal(shape).astype(like.dtype)


def session_of(model: ModelProto) -> ort.InferenceSession | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime has no kernel for some of ONNX's operators
        return None


def answers(session: ort.InferenceSession, inputs: Mapping[str, NDArray]) -> dict[str, NDArray] | None:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception:  # noqa: BLE001 - made-up values that the model refuses
        return None


def alike(one: NDArray, other: NDArray) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    return bool(
        np.allclose(one.astype(np.complex128), other.astype(np.complex128), rtol=1e-3, atol=1e-4, equal_nan=True)
    )


def alike_rows(one: NDArray, other: NDArray, axis: int, split: tuple[int, ...]) -> bool:
    if split != SPLITS[-1]:
        return alike(one, other)
    # Which element is the largest where one is not a number is left to chance by some kernels: in its own row only.
    others = range(sum(split[:-1]))
    return one.shape == other.shape and alike(np.take(one, others, axis), np.take(other, others, axis))


def compare(
    case: Case, axes: Mapping[str, int], model: ModelProto, states: Mapping[str, State]
) -> tuple[int, list[str]]:
    """Returns how many joined runs were compared to single ones, and in what they were wrong."""
    session = session_of(model)
    if session is None:
        return 0, []
    random = np.random.default_rng(0)
    compared, wrong = 0, []
    taken = {value.name for value in session.get_inputs()}
    for split in SPLITS:
        requests = [
            {n: random_rows(random, v, rows, axes[n]) if n in axes else v for n, v in case.inputs.items() if n in taken}
            for rows in split
        ]
        for name, value in requests[-1].items():  # what is not a number spreads further than any other value
            if split == SPLITS[-1] and name in axes and value.dtype.kind == "f" and value.size:
                value.reshape(-1)[0] = np.nan
        alone = [answers(session, request) for request in requests]
        joined = {
            n: np.concatenate([r[n] for r in requests], axis=axes[n]) if n in axes else requests[0][n] for n in taken
        }
        together = answers(session, joined)
        if together is None or None in alone:
            continue  # such a run is made again, one request after another
        compared += 1
        for name, state in states.items():
            singles = [answer[name] for answer in alone if answer is not None]
            if isinstance(state, Rows) and state.plain:
                fine = all(s.ndim > state.axis for s in singles) and alike_rows(
                    together[name], np.concatenate(singles, axis=state.axis), state.axis, split
                )
                sizes = [size.constant for size in state.shape]
                fine = fine and all(c in (None, s) for c, s in zip(sizes, together[name].shape, strict=True))
            elif isinstance(state, Shared) and not state.counts_rows:
                fine = all(alike(single, together[name]) for single in singles)
            else:
                continue
            if not fine:
                wrong.append(f"{case.name} along {axes}: {name}")
    return compared, wrong


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_proved_of_conformance_models_holds_when_they_run(tmp_path: Path):
    compared: Counter[str] = Counter()
    wrong: list[str] = []
    for case in chosen():
        for axes in likely_axes(case.inputs):
            for constant in (False, True) if len(axes) < len(case.inputs) else (False,):
                model = freed(case, axes, constant=constant)
                path = tmp_path / "m.onnx"
                onnx.save(model, path)
                try:
                    signature = read_model(path).signature
                except InvalidModel:
                    continue  # element types that Turnout does not carry
                states = follow(describe(model), signature, axes)
                if not any(isinstance(state, Rows) for state in states.values()):
                    continue
                runs, found = compare(case, axes, model, states)
                compared[case.model.graph.node[0].op_type] += runs
                wrong += found
    assert not wrong
    assert len(+compared) > 120, sorted(+compared)
