"""For which sizes of requests a version's runs are captured, and why for none."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_models import bfloat16_cast, if_with_weights, matmul, save, string_identity
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.graph_reader import read_graph
from turnout.registry.onnx.model import read_model
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.proven_sizes import ProvenSizes
from turnout.serving.cuda_graphs.plan import GraphPlan, obstacle, plan_graphs

Dims = Sequence[int | str | None]


def _signature(**shapes: Dims) -> Signature:
    """Returns a signature whose inputs are named x..., and its outputs y...."""
    specs = [TensorSpec(name, DataType.FLOAT32, tuple(shape)) for name, shape in shapes.items()]
    return Signature(
        tuple(s for s in specs if s.name.startswith("x")), tuple(s for s in specs if s.name.startswith("y"))
    )


def _batch(rows: int, **shapes: Sequence[int]) -> BatchPlan:
    sample = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return BatchPlan(rows, dict.fromkeys(shapes, 0), {"y": 0}, sample=sample)


BATCHED = plan_graphs(_signature(x=("N", 4), y=("N", 4)), _batch(32, x=(1, 4)))


@given(st.integers(2, 300))
def test_buckets_double_up_to_the_largest_batch(most: int) -> None:
    plan = plan_graphs(_signature(x=("N", 4), y=("N", 4)), _batch(most, x=(1, 4)))
    assert plan.buckets[0] == 1
    assert plan.buckets[-1] == most
    assert all(b == min(2 * a, most) for a, b in zip(plan.buckets, plan.buckets[1:], strict=False))


@given(st.integers(-1, 40))
def test_a_batch_gets_the_smallest_bucket_that_holds_it(rows: int) -> None:
    bucket = BATCHED.bucket(rows)
    holding = [b for b in BATCHED.buckets if b >= rows >= 1]
    assert bucket == min(holding, default=None)


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ({"x": (3, 4)}, 3),
        ({"x": (0, 4)}, 0),
        ({"x": (3, 5)}, None),
        ({"x": (4,)}, None),
        ({"x": (3, 4, 1)}, None),
        ({}, None),
        ({"x": (3, 4), "z": (1,)}, None),
    ],
)
def test_only_requests_of_the_captured_names_and_shapes_have_rows(
    inputs: Mapping[str, tuple[int, ...]], rows: int | None
) -> None:
    assert BATCHED.rows_of({name: np.zeros(shape, np.float32) for name, shape in inputs.items()}) == rows


def test_inputs_agree_on_their_rows_or_have_none() -> None:
    plan = plan_graphs(
        _signature(x=("N", 4), x2=(2, "N"), x3=(), y=("N", 4)),
        BatchPlan(
            8, {"x": 0, "x2": 1}, {"y": 0},
            sample={"x": np.zeros((1, 4)), "x2": np.zeros((2, 1)), "x3": np.zeros(())},
        ),
    )  # fmt: skip
    assert plan.buckets == (1, 2, 4, 8)
    assert plan.rows_of({"x": np.zeros((3, 4)), "x2": np.zeros((2, 3)), "x3": np.zeros(())}) == 3
    assert plan.rows_of({"x": np.zeros((3, 4)), "x2": np.zeros((2, 2)), "x3": np.zeros(())}) is None
    assert plan.rows_of({"x": np.zeros((3, 4)), "x2": np.zeros((2, 3)), "x3": np.zeros(1)}) is None


def test_a_version_without_free_dimensions_has_one_graph() -> None:
    plan = plan_graphs(_signature(x=(2, 4), y=(2, 4)), BatchPlan(0, sample={"x": np.zeros((2, 4))}))
    assert plan.buckets == (1,)
    assert plan.rows_of({"x": np.zeros((2, 4))}) == 1
    assert plan.rows_of({"x": np.zeros((1, 4))}) is None


def test_a_version_whose_rows_are_not_proved_has_one_of_one_row() -> None:
    plan = plan_graphs(_signature(x=("N", 4), y=("N", 4)), BatchPlan(0, sample={"x": np.zeros((1, 4))}))
    assert plan.buckets == (1,)
    assert plan.rows_of({"x": np.zeros((1, 4))}) == 1
    assert plan.bucket(2) is None


def test_a_version_whose_batches_do_not_pay_has_one_of_one_row_which_is_never_filled_up() -> None:
    plan = plan_graphs(_signature(x=("N", 4), y=("N", 4)), _batch(0, x=(1, 4)))
    assert plan.buckets == (1,)
    assert plan.bucket(2) is None


@pytest.mark.parametrize(
    ("signature", "plan", "reason"),
    [
        (_signature(x=("N", 4), y=("N", 4)), BatchPlan(8, {"x": 0}, {"y": 0}), "no inputs were found"),
        (_signature(x=("N", "T"), y=("N", "T")), _batch(8, x=(1, 4)), r"dimension 1 of input x \(T\) is free"),
        (_signature(x=("N", None), y=("N", 4)), _batch(8, x=(1, 4)), "dimension 1 of input x is free"),
        (_signature(x=("N", 4), y=("N", 4)), BatchPlan(0, sample={"x": np.zeros((3, 4))}), "dimension 0 of input x"),
        (_signature(x=("N", 4), y=(4,)), BatchPlan(8, {"x": 0}, {}, sample={"x": np.zeros((1, 4))}), "output y has no"),
        (
            _signature(x=("N", 4), y=("N", 4)),
            BatchPlan(
                8, {"x": 0}, {"y": 0}, sample={"x": np.zeros((1, 4))}, sizes=ProvenSizes(lambda _: True, ())
            ),
            "some sizes only",
        ),
    ],
    ids=["no sample", "a sequence", "an unnamed dimension", "unproved", "a whole output", "some sizes"],
)  # fmt: skip
def test_what_cannot_be_captured_says_why(signature: Signature, plan: BatchPlan, reason: str) -> None:
    found = plan_graphs(signature, plan)
    assert found.buckets == ()
    assert found.reason.startswith("off: ")
    assert re.search(reason, found.reason)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (matmul(), ""),
        (string_identity(), "is of string"),
        (bfloat16_cast(), "is of bfloat16"),
        (if_with_weights(), "control flow (If)"),
    ],
    ids=["matmul", "strings", "bfloat16", "If"],
)
def test_what_a_model_holds_may_rule_graphs_out_before_it_is_loaded(tmp_path, proto, reason: str) -> None:
    path = save(proto, tmp_path / "m.onnx")
    found = obstacle(read_model(path).signature, read_graph(path))
    assert reason in found
    assert bool(found) == bool(reason)


@given(st.integers(1, 10_000), st.integers(0, 400_000))
def test_graphs_take_no_more_memory_than_they_may(bytes_per_row: int, most: int) -> None:
    plan = BATCHED.within(bytes_per_row, most)
    assert plan.buckets == BATCHED.buckets[: len(plan.buckets)]
    assert bytes_per_row * sum(plan.buckets) <= most
    left_out = BATCHED.buckets[len(plan.buckets) :]
    assert not left_out or bytes_per_row * (sum(plan.buckets) + left_out[0]) > most
    assert plan.reason.startswith("off" if not plan.buckets else "captured for 1")


def test_a_plan_that_captures_nothing_holds_nothing() -> None:
    nothing = GraphPlan((), "off")
    assert nothing.bucket(1) is None
