"""Determines whether and how requests of a version can be batched.

The graph must prove it (`turnout.serving.rowwise`) and runs must confirm it (`turnout.serving.batching.batch_check`).
Where the graph proves nothing, only the publisher's declaration is tried, and it is accepted if the runs confirm it.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from turnout.errors import TurnoutError
from turnout.registry.manifest.manifest import BatchingDeclaration, Manifest
from turnout.registry.manifest.signature import Dimension, Signature
from turnout.registry.onnx.graph import ModelGraph
from turnout.serving.batching.batch_check import BatchDifference, check, rows_to_try
from turnout.serving.batching.proven_sizes import ProvenSizes, Sizes
from turnout.serving.inputs.sample import one_row
from turnout.serving.inputs.synthetic import MOST_ELEMENTS, Recipe, recipes, synthetic_by_recipe
from turnout.serving.inputs.validation import shared_symbols
from turnout.serving.rowwise.proof import Proof, prove_rows
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How a version's requests are batched.

    Attributes:
        max_rows: Maximum number of rows in a batch; 0 if requests run one at a time.
        input_axes: Axis along which each batched input is joined. Inputs not listed must be the same for a whole batch.
        output_axes: Axis along which each batched output is split. Outputs not listed are given to every request.
        sample: One-row inputs that the model runs on, for warm-up; None if none were found.
        mixes: Whether a batch was run in which rows got different answers than alone.
        sizes: Sizes of the other dimensions for which batching is proved; None if it holds for all sizes.
        equal: Groups of dimensions (input, axis) that share a symbol; batching requires the sizes within a group to be
            equal.
        proved: Whether the graph proves that requests can share a run. If not, the publisher says so, and runs agree.
        parallel: Number of runs that do not slow one another down, each on a core or device of its own.
        efficient_rows: Number of rows from which a row costs hardly more than in a batch of `max_rows`.
    """

    max_rows: int
    input_axes: Mapping[str, int] = field(default_factory=dict)
    output_axes: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    sample: Mapping[str, Array] | None = None
    mixes: bool = False
    sizes: ProvenSizes | None = None
    equal: Sequence[Sequence[tuple[str, int]]] = ()
    proved: bool = False
    parallel: int = 1
    efficient_rows: int = 1

    def share(self, waiting: int) -> int:
        """Returns the largest number of rows that one runner takes while `waiting` rows wait in its line.

        Rows are left for the other runners, which would otherwise idle while one runs a batch. Batches in which a row
        would cost much more are not made for that.
        """
        return min(self.max_rows, max(self.efficient_rows, -(-waiting // self.parallel)))


def sample_axes(manifest: Manifest) -> Mapping[str, int]:
    """Returns the axis of each input along which a sample has one row: the declared axes, or the first guess."""
    return next(iter(_candidates(manifest)), {})


def prove(
    run: Run,
    manifest: Manifest,
    max_rows: int,
    golden: Sequence[Mapping[str, Array]],
    graph: ModelGraph,
    tried: Sequence[Recipe] | None = None,
    most: int = MOST_ELEMENTS,
    trouble: str = "",
) -> BatchPlan:
    """Analyzes the graph, runs the model a few times, and returns the batch plan that both support.

    `max_rows` is the maximum number of rows that the server allows; 0 turns batching off. The inputs tried are those of
    golden cases, which models accept where they may refuse synthetic inputs, and synthetic ones by the recipes `tried`,
    of at most `most` elements; None for recipes that suit most models. `trouble` is the model's error message for
    inputs tried earlier.
    """
    signature, declared = manifest.signature, manifest.batching or BatchingDeclaration()
    candidates, axes = _candidates(manifest), sample_axes(manifest)
    tried = recipes(values_become_sizes=False) if tried is None else tried
    rows = itertools.chain(
        filter(None, (one_row(case, axes) for case in golden)),
        (inputs for _, inputs in synthetic_by_recipe(signature, tried, axes, most)),
    )
    samples = _Samples(run, signature, axes, rows, trouble)
    sample = samples.first
    if not declared.enabled:
        return BatchPlan(0, reason="unbatched: the manifest says so", sample=sample)
    if max_rows < 2:
        return BatchPlan(0, reason="unbatched: the configuration says so", sample=sample)
    if not any(candidates):
        return BatchPlan(0, reason="unbatched: no input has a free dimension", sample=sample)
    most_rows = min(max_rows, declared.max_rows or max_rows)
    plans = []
    for input_axes in candidates:
        attempt = _AxesAttempt(run, manifest, graph, input_axes, golden, claimed=declared.axes is not None)
        plan = attempt.plan(most_rows, samples)
        if plan.max_rows:
            return plan
        plans.append(plan)
    return replace(plans[0], sample=sample, mixes=any(plan.mixes for plan in plans))


@dataclass(frozen=True, slots=True)
class _AxesAttempt:
    """An attempt to batch along one axis of each input."""

    run: Run
    manifest: Manifest
    graph: ModelGraph
    input_axes: Mapping[str, int]
    golden: Sequence[Mapping[str, Array]]
    claimed: bool

    def plan(self, rows: int, samples: "_Samples") -> BatchPlan:
        """Returns a plan of up to `rows` rows, or an unbatched plan with the reason."""
        proof = prove_rows(self.graph, self.manifest.signature, self.input_axes)
        axes = ", ".join(f"{name} axis {axis}" for name, axis in self.input_axes.items())
        sample = samples.first
        if sample is None:
            return self._unrun(rows, proof, axes, samples.trouble)
        sizes = None
        if proof.obstacle:
            for other in samples:
                sized = self._prove_for(sizes_of(other, self.input_axes))
                if not sized.obstacle:
                    holds = partial(self._holds, sized.output_axes)
                    sizes = ProvenSizes(holds, [sizes_of(other, self.input_axes)])
                    proof, sample = sized, other
                    break
        proved = None if proof.obstacle else proof.output_axes
        try:
            tried = rows_to_try(sample, self.input_axes, self.golden)
            output_axes = check(self.run, self.manifest, self.input_axes, tried, proved=proved)
            self._check_declared(output_axes)
        except BatchDifference as found:
            why = f"{found} ({proof.obstacle})" if proof.obstacle else str(found)
            return BatchPlan(0, reason=f"unbatched: {why}", sample=sample, mixes=found.mixes)
        if proved is None and not self.claimed:
            why = f"the graph does not prove that rows are independent of each other: {proof.obstacle}"
            return BatchPlan(0, reason=f"unbatched: {why}", sample=sample)
        if proved is None:
            how = f"declared, and runs agree; the graph does not prove it: {proof.obstacle}"
            return BatchPlan(rows, self.input_axes, output_axes, f"batched ({how}: {axes})", sample)
        how = "declared and proved" if self.claimed else "proved"
        where = "" if sizes is None else "; for sizes of other dimensions that the graph is proved for"
        reason = f"batched ({how} by graph and run: {axes}{where})"
        return BatchPlan(
            rows, self.input_axes, output_axes, reason, sample, sizes=sizes, equal=self._equal(), proved=True
        )

    def _equal(self) -> list[list[tuple[str, int]]]:
        """Returns the dimensions that the proof assumes to be equal; requests are not checked for this elsewhere."""
        groups = shared_symbols(Signature(self.manifest.signature.required, ())).values()
        beside = [[(name, axis) for name, axis in group if self.input_axes.get(name) != axis] for group in groups]
        return [group for group in beside if len(group) > 1]

    def _check_declared(self, output_axes: Mapping[str, int]) -> None:
        declared = (self.manifest.batching.axes if self.manifest.batching else None) or {}
        for name, axis in output_axes.items():
            if declared.get(name, axis) != axis:
                raise BatchDifference(f"output {name} grows along axis {axis}, not {declared[name]}", mixes=False)

    def _unrun(self, rows: int, proof: Proof, axes: str, trouble: str) -> BatchPlan:
        """Returns the plan for a model that ran on none of the inputs tried.

        It is batched only if the graph proves it and the publisher declares it.
        """
        if self.claimed and not proof.obstacle:
            reason = f"batched (declared, and proved by graph: {axes}; could not be run: publish a golden case)"
            return BatchPlan(rows, self.input_axes, proof.output_axes, reason, equal=self._equal(), proved=True)
        why = f"no inputs were found that it runs on ({trouble}); publish a golden case"
        return BatchPlan(0, reason=f"unbatched: {why}" + (f"; {proof.obstacle}" if proof.obstacle else ""))

    def _holds(self, output_axes: Mapping[str, int], sizes: Sizes) -> bool:
        proof = self._prove_for(sizes)
        return not proof.obstacle and dict(proof.output_axes) == dict(output_axes)

    def _prove_for(self, sizes: Sizes) -> Proof:
        """Follows the batch dimension through the graph for inputs whose other dimensions have the given sizes."""
        known = dict(sizes)
        inputs = []
        for spec in self.manifest.signature.inputs:
            if spec.name in known:
                shape: list[Dimension] = list(known[spec.name])
                if spec.name in self.input_axes:
                    shape.insert(self.input_axes[spec.name], None)
                spec = replace(spec, shape=tuple(shape))
            inputs.append(spec)
        return prove_rows(self.graph, Signature(tuple(inputs), self.manifest.signature.outputs), self.input_axes)


def sizes_of(inputs: Mapping[str, Array], axes: Mapping[str, int]) -> Sizes:
    """Returns the dimensions of the inputs without their batch axes."""
    found = []
    for name in sorted(inputs):
        shape = inputs[name].shape
        axis = axes.get(name)
        found.append((name, shape if axis is None else shape[:axis] + shape[axis + 1 :]))
    return tuple(found)


def _candidates(manifest: Manifest) -> list[dict[str, int]]:
    declared = manifest.batching or BatchingDeclaration()
    if (axes := declared.axes) is not None:
        return [{spec.name: axes[spec.name] for spec in manifest.signature.inputs if spec.name in axes}]
    return list(likely_axes(manifest.signature))


def likely_axes(signature: Signature) -> Iterator[dict[str, int]]:
    """Yields guesses at the batch axes: the first free dimension of each input; only those on axis 0; and the axes that
    bear the name of the first input's first free dimension.
    """
    needed = signature.required
    first_free = {
        spec.name: next(i for i, d in enumerate(spec.shape) if not isinstance(d, int))
        for spec in needed
        if any(not isinstance(d, int) for d in spec.shape)
    }
    guesses = [first_free, {name: axis for name, axis in first_free.items() if axis == 0}]
    names = [spec.shape[first_free[spec.name]] for spec in needed if spec.name in first_free]
    if names and isinstance(names[0], str):
        guesses.append({spec.name: spec.shape.index(names[0]) for spec in needed if names[0] in spec.shape})
    seen: list[dict[str, int]] = []
    for guess in guesses:
        if guess and guess not in seen:
            seen.append(guess)
            yield guess


class _Samples:
    """One-row inputs of different sizes that the model runs on: golden cases first, then synthetic inputs.

    Evaluated lazily, since one is enough where the graph proves the rest.
    """

    def __init__(
        self, run: Run, signature: Signature, axes: Mapping[str, int], rows: Iterable[Mapping[str, Array]], trouble: str
    ) -> None:
        self.trouble = trouble
        self._found: list[Mapping[str, Array]] = []
        self._tries = self._look(run, signature, axes, rows)

    @property
    def first(self) -> Mapping[str, Array] | None:
        return next(iter(self), None)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        yield from self._found
        for inputs in self._tries:
            self._found.append(inputs)
            yield inputs

    def _look(
        self, run: Run, signature: Signature, axes: Mapping[str, int], rows: Iterable[Mapping[str, Array]]
    ) -> Iterator[Mapping[str, Array]]:
        names = signature.output_names
        seen: set[Sizes] = set()
        for inputs in rows:
            sizes = sizes_of(inputs, axes)
            if sizes in seen:
                continue
            try:
                run(inputs, names)
            except TurnoutError as error:
                self.trouble = error.message
            else:
                seen.add(sizes)
                yield inputs
