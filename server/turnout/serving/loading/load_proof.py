"""Determines how a version batches and its warm-up inputs, while it loads in a process that serves other versions.

Nothing is run here that may take an arbitrary amount of memory or time. Where values become sizes, or only large inputs
remain to be tried, a separate process tries them first, and only what ran there within bounds is run here.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from turnout.errors import TurnoutError
from turnout.registry.compatibility.sandbox import SandboxVersion
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.onnx.graph import ModelGraph
from turnout.registry.onnx.value_sizes import values_become_sizes
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, first_case
from turnout.serving.batching.batchability import BatchPlan, prove, sample_axes
from turnout.serving.inputs.sample import SampleInputs, one_row
from turnout.serving.inputs.synthetic import FEW_ELEMENTS, recipes, synthetic_by_recipe
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array
from turnout.serving.tensorrt.shapes import NO_PROFILE, ShapeProfile

CASE_BYTES = 64 << 20
"""Maximum memory of a golden case that is run at each load; larger cases are not used."""


def prove_at_load(
    run: Run,
    manifest: Manifest,
    directory: Path,
    graph: ModelGraph,
    max_rows: int,
    sandbox: ProcessSandbox,
    shapes: ShapeProfile = NO_PROFILE,
) -> BatchPlan:
    """Returns how requests of a version are batched, after running it in this process (`run`), or in another first.

    Inputs of shapes that the version's engines do not take are not tried.
    """
    declared = shapes.batchable(manifest)
    case = first_case(directory, CASE_BYTES)
    golden = None if case is None else case.inputs
    given = {*(spec.name for spec in manifest.signature.required), *(golden or ())}
    plan: BatchPlan | None = None
    if not values_become_sizes(graph.graph, given):
        cases = [] if golden is None else [golden]
        tried = recipes(values_become_sizes=False, sizes=shapes.usual)
        plan = prove(run, declared, max_rows, cases, graph, tried, FEW_ELEMENTS)
    free = any(not isinstance(d, int) for spec in manifest.signature.inputs for d in spec.shape)
    if plan is None or (plan.sample is None and free):
        path = None if case is None else directory / GOLDEN_DIRECTORY / f"{case.name}.npz"
        found = _tried_elsewhere(SandboxVersion(directory, declared), sample_axes(declared), path, golden, sandbox)
        rows = [] if found.inputs is None else [found.inputs]
        plan = prove(run, declared, max_rows, rows, graph, (), trouble=found.trouble)
    if declared is not manifest:
        return replace(plan, reason="unbatched: its TensorRT engines take no single row")
    return replace(plan, max_rows=shapes.most_rows(plan.input_axes, plan.max_rows))


def _tried_elsewhere(
    version: SandboxVersion,
    axes: Mapping[str, int],
    case: Path | None,
    golden: Mapping[str, Array] | None,
    sandbox: ProcessSandbox,
) -> SampleInputs:
    try:
        recipe, trouble = sandbox.sample(version, [] if case is None else [case])
    except TurnoutError as error:
        return SampleInputs(None, trouble=error.message)
    if trouble:
        return SampleInputs(None, trouble=trouble)
    if recipe is None:
        return SampleInputs(None if golden is None else one_row(golden, axes))
    signature = version.manifest.signature
    return SampleInputs(next(inputs for _, inputs in synthetic_by_recipe(signature, [recipe], axes)), recipe)
