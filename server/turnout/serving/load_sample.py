"""Inputs for the first runs of a version that is loaded, in a process that serves others.

Nothing is run there that may take any amount of memory or time: where values become sizes, and where only large inputs
are left to try, a process of its own tries first, and what ran in it within bounds is run here.
"""

from pathlib import Path

from turnout.errors import TurnoutError
from turnout.registry.golden import GOLDEN_DIRECTORY, first_case
from turnout.registry.graph import Graph
from turnout.registry.lab import Subject
from turnout.registry.manifest import Manifest
from turnout.registry.value_sizes import values_become_sizes
from turnout.serving.batchability import sample_axes
from turnout.serving.sample import Sample, find_sample, one_row
from turnout.serving.session import Run
from turnout.serving.synthetic import FEW_ELEMENTS, made_up, recipes
from turnout.serving.trial import TrialLab

CASE_BYTES = 64 << 20
"""Memory of a golden case that is run at each load; a larger one does without, and so does the load."""


def sample_for_load(run: Run, manifest: Manifest, directory: Path, graph: Graph, lab: TrialLab) -> Sample:
    """Finds inputs of one row that a version runs on.

    Args:
        run: Runs the version, in this process.
        manifest: Of the version.
        directory: Of the version.
        graph: Of the version.
        lab: Runs it in another.
    """
    signature, axes = manifest.signature, sample_axes(manifest)
    case = first_case(directory, CASE_BYTES)
    golden = None if case is None else case.inputs
    given = {spec.name for spec in signature.inputs if not spec.has_default} | set(golden or ())
    if not values_become_sizes(graph, given):
        tried = recipes(values_become_sizes=False)
        found = find_sample(run, signature, axes, golden, tried, most=FEW_ELEMENTS)
        if found.inputs is not None or all(isinstance(d, int) for spec in signature.inputs for d in spec.shape):
            return found
    cases = [] if case is None else [directory / GOLDEN_DIRECTORY / f"{case.name}.npz"]
    try:
        recipe, trouble = lab.sample(Subject(directory, manifest), cases)
    except TurnoutError as error:
        return Sample(None, trouble=error.message)
    if trouble:
        return Sample(None, trouble=trouble)
    if recipe is None:
        return Sample(None if golden is None else one_row(golden, axes))
    return Sample(next(inputs for _, inputs in made_up(signature, [recipe], axes)), recipe)
