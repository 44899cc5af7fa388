"""The child process of `turnout.serving.sandbox.sandbox`: one question and one answer, both in a scratch directory.

It is forked by `turnout.serving.sandbox.template_process`, or run as `python -m turnout.serving.sandbox.child SCRATCH
PARENT`; either way it dies with the process that started it.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from google.protobuf.message import DecodeError

from turnout.errors import InvalidModel, MemoryBudgetExceeded, ModelCrashed, ModelFailure, TurnoutError
from turnout.host import memory, process
from turnout.registry.compatibility.agreement import differs, largest_difference, tolerance_of
from turnout.registry.manifest.manifest import MODEL_FILE, Manifest
from turnout.registry.onnx.checker import ModelCheck, check_file
from turnout.registry.onnx.graph import ModelGraph
from turnout.registry.onnx.model import read_model
from turnout.registry.onnx.value_sizes import values_become_sizes
from turnout.registry.onnx.weights import read_weights
from turnout.serving.batching.batchability import BatchPlan, prove, sample_axes
from turnout.serving.batching.warmup import warm_up
from turnout.serving.inputs.attempts import LeftOut
from turnout.serving.inputs.sample import SampleInputs, find_sample
from turnout.serving.inputs.synthetic import Recipe, recipes, synthetic_by_recipe, synthetic_inputs
from turnout.serving.isolation.hazards import UNBATCHED_IF_ZEROED, decide
from turnout.serving.sandbox.answers import AnswerArchiveWriter
from turnout.serving.sandbox.examples import Example, check_fit, first_row, golden_examples
from turnout.serving.sandbox.messages import failure_body
from turnout.serving.sandbox.processes import ANSWER_FILE, ANSWERS_FILE, GRAPH_FILE, JOB_FILE, ZEROED_ENVIRONMENT
from turnout.serving.sandbox.request import AT_LIMIT, SandboxRequest
from turnout.serving.sandbox.trial_session import LOADING, PREPACKED_LIMIT, TrialSession, load
from turnout.serving.sandbox.zipmap_check import without_zipmap
from turnout.serving.sessions import providers
from turnout.serving.sessions.runtime_errors import load_failure
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.tensor import Array, identical

SYNTHETIC_INPUTS = 8
"""Number of synthetic inputs that a version answers besides golden cases."""

_PROOF_CASES = 4
"""Number of golden cases whose rows are batched with others. All cases are answered, but few need be in memory."""

_PROOF_RUNS = 4
"""A proof of how a version batches takes at least this many runs, longer ones for more rows."""

DESCRIBED_BYTES = 512 << 20
"""Memory that the nodes and texts of an ONNX file may take when it is read, in addition to a multiple of its size."""

_WARM_RUNS = 3
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 400

_BUSY = 1.5
"""If the median run takes this many times its CPU time, it waited for a core, and elapsed time says little about it.
Runs on several threads take more CPU time than elapsed time, so they never count as waiting."""


def main() -> None:
    """Answers the question in a process started for it."""
    process.die_with_parent(int(sys.argv[2]))
    process.write_no_core()  # crashes are expected here
    providers.start_runtime()
    answer(Path(sys.argv[1]))


def answer(scratch: Path) -> None:
    """Answers the question in a scratch directory and writes the answer there."""
    memory.raise_oom_score(1000)
    request = SandboxRequest.of(json.loads((scratch / JOB_FILE).read_bytes()), scratch)
    memory.limit_data(
        request.memory_limit + LOADING * max((manifest.size for _, manifest in request.versions), default=0)
    )
    questions = {"describe": describe, "examine": examine, "sample": sample, "compare_latency": compare_latency,
                 "optimise": optimise, "drop zipmap": drop, "check": check, "weights": weights,
                 "graph": graph, "load": load_only}  # fmt: skip
    try:
        report = questions[request.question](request)
    except TurnoutError as error:
        report = {"error": failure_body(error) | {"message": request.client_message(error)}}
    except MemoryError:
        at_limit = MemoryBudgetExceeded(AT_LIMIT)
        report = {"error": failure_body(at_limit) | {"message": request.client_message(at_limit)}}
    except Exception as error:  # noqa: BLE001 - an exit code alone would look like a crash of the model
        failure = ModelFailure(f"its trial failed unexpectedly: {type(error).__name__}: {str(error)[:200]}")
        report = {"error": failure_body(failure)}
    (scratch / ANSWER_FILE).write_text(json.dumps(report))


def describe(request: SandboxRequest) -> dict[str, Any]:
    """Reads an ONNX file. Protobuf makes hundreds of bytes of an empty message, which takes two bytes in the file."""
    limit = DESCRIBED_BYTES + LOADING * request.size
    memory.limit_data(limit)
    before = memory.reset_peak()
    try:
        facts: dict[str, Any] = read_model(request.model).to_json()
        return facts
    except (InvalidModel, MemoryError) as error:
        memory.unlimit_data()  # for the error message
        # Protobuf reports a failed allocation with the same error as malformed bytes.
        unparsed = isinstance(error.__cause__, DecodeError) and memory.peak_bytes() - before > limit // 4
        if unparsed or isinstance(error, MemoryError):
            raise InvalidModel(
                f"reading the ONNX file takes more than {limit >> 20:,} MiB of memory: it is made of more nodes,"
                " attributes and texts than that is enough for"
            ) from error
        raise


def graph(request: SandboxRequest) -> dict[str, Any]:
    """Writes the structure of a version's model, prepared to be described."""
    (request.scratch / GRAPH_FILE).write_bytes(request.prepared().SerializeToString())
    return {}


def load_only(request: SandboxRequest) -> dict[str, Any]:
    """Loads a version."""
    return {"seconds": load(request).seconds}


def check(request: SandboxRequest) -> dict[str, Any]:
    """Checks an ONNX file. Shape inference, which refuses nothing, is skipped if it takes too long or too much."""
    ((directory, _),) = request.versions
    inferring = request.attempts.attempt("shape inference", request.run_seconds)
    try:
        found = check_file(directory / MODEL_FILE, inferring)
    except LeftOut as error:
        found = ModelCheck(shapes=f"its shapes were not inferred: {error.message}")
    body: dict[str, Any] = found.to_json()
    return body


def weights(request: SandboxRequest) -> dict[str, Any]:
    """Reads the weights of a version, which may describe a file of petabytes: tensors may overlap."""
    ((directory, _),) = request.versions
    return _weights(directory)


def _weights(directory: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = read_weights(directory).to_json()
        return body
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidModel("the data of a tensor does not match its description") from error


def drop(request: SandboxRequest) -> dict[str, Any]:
    """Removes the ZipMap from an ONNX file and verifies that the answers are the same."""
    memory.limit_data(DESCRIBED_BYTES + request.memory_limit + LOADING * request.size)
    return without_zipmap(request.model, request.scratch, request.golden, request.trying)


def examine(request: SandboxRequest) -> dict[str, Any]:
    """Loads one version, proves how it batches, warms it up and runs it on examples."""
    ((_, manifest),) = request.versions
    before = memory.reset_peak()
    graph = request.graph()
    zeroed = decide(request.runtime.isolation, graph).zeroed
    if zeroed:
        _zero_memory(request.scratch)
    sizes = _values_become_sizes(graph, manifest)
    loaded = load(request, arena=not (sizes or zeroed))
    session = loaded.session
    tried = recipes(values_become_sizes=sizes, sizes=loaded.shapes.usual)
    found = _sample(request, loaded, tried)
    plan = _proved(request, loaded, found, graph, sizes=sizes)
    if zeroed:
        plan = replace(plan, max_rows=0, mixes=False, reason=UNBATCHED_IF_ZEROED)
    names = manifest.signature.output_names
    # One row only: which batch sizes pay off depends on the load of the machine, and the peak of memory would too.
    warmth = warm_up(session.run, replace(plan, max_rows=0), names, _WARM_RUNS, only_where_it_pays=True)
    examples = golden_examples(request.golden, manifest.signature)
    if found.inputs is not None:  # otherwise another search for synthetic inputs would be in vain
        examples = chain(examples, _synthetic(request, session, found.recipe, tried))
    answers = AnswerArchiveWriter(request.scratch / ANSWERS_FILE)
    with answers:
        for example in examples:
            outputs, fault = _answer(request, session, example, names)
            answers.add(example, outputs, fault)
    nothing = f"no inputs were found that it runs on: {found.trouble}; a golden case would give them"
    return {
        "provider": session.providers[0],
        "load_seconds": loaded.seconds,
        "run_seconds": warmth.seconds_by_rows.get(1, 0.0),
        "peak_bytes": max(memory.peak_bytes() - before, 0),
        "warning": warmth.warning if found.inputs is not None else nothing,
        "batched": plan.max_rows > 1,
        "mixes": plan.mixes,
        "batching": plan.reason,
        **_repeated(session, manifest, plan.sample, names),
        "answers": answers.records,
    }


def _zero_memory(scratch: Path) -> None:
    """Starts again in this process, with memory that is zeroed as where the version is served, unless it is already."""
    if os.environ.items() >= ZEROED_ENVIRONMENT.items():
        return
    memory.unlimit_data()
    command = [sys.executable, "-m", "turnout.serving.sandbox.child", str(scratch), str(os.getppid())]
    os.execve(sys.executable, command, {**os.environ, **ZEROED_ENVIRONMENT})  # noqa: S606 - nothing from a client


def sample(request: SandboxRequest) -> dict[str, Any]:
    """Finds inputs that a version runs on, for processes that must not try themselves because they serve."""
    sizes = _values_become_sizes(request.graph(), request.versions[0][1])
    loaded = load(request, arena=not sizes)
    found = _sample(request, loaded, recipes(values_become_sizes=sizes, sizes=loaded.shapes.usual))
    recipe = None if found.recipe is None else astuple(found.recipe)
    return {"found": found.inputs is not None, "recipe": recipe, "trouble": found.trouble}


def _sample(request: SandboxRequest, loaded: TrialSession, tried: Sequence[Recipe]) -> SampleInputs:
    ((_, manifest),) = request.versions
    sound = next((e.inputs for e in golden_examples(request.golden, manifest.signature) if not e.fault), None)
    axes = sample_axes(loaded.shapes.batchable(manifest))
    found = find_sample(loaded.session.run, manifest.signature, axes, sound, tried, request.trying)
    if found.deadly:
        raise ModelCrashed(f"{found.trouble}, for all synthetic inputs; a golden case would show what it runs on")
    at_limit = request.client_message(MemoryBudgetExceeded(AT_LIMIT))
    return replace(found, trouble=found.trouble.replace(AT_LIMIT, at_limit))


def _proved(
    request: SandboxRequest, loaded: TrialSession, found: SampleInputs, graph: ModelGraph, *, sizes: bool
) -> BatchPlan:
    """Proves how a version batches. Guarded, since values other than the sample's may crash the process."""
    ((_, manifest),) = request.versions
    sound = (example.inputs for example in golden_examples(request.golden, manifest.signature) if not example.fault)
    rows = [*islice(sound, _PROOF_CASES), *([] if found.recipe is None or found.inputs is None else [found.inputs])]
    # Where values become sizes, the sample is known to be small.
    tried = [] if sizes or found.inputs is None else recipes(values_become_sizes=False, sizes=loaded.shapes.usual)
    declared = loaded.shapes.batchable(manifest)
    try:
        with request.attempts.attempt("other values than those it ran on", _PROOF_RUNS * request.run_seconds):
            return prove(loaded.session.run, declared, request.max_rows, rows, graph, tried, trouble=found.trouble)
    except LeftOut as error:
        reason = f"unbatched: on values other than those that it first ran on, {error.message}"
        return BatchPlan(0, reason=reason, sample=found.inputs)


def _values_become_sizes(graph: ModelGraph, manifest: Manifest) -> bool:
    return values_become_sizes(graph.graph, [spec.name for spec in manifest.signature.required])


def compare_latency(request: SandboxRequest) -> dict[str, Any]:
    """Runs two versions in alternation on one input that both accept."""
    manifests = [manifest for _, manifest in request.versions]
    prepack = max(manifest.size for manifest in manifests) < PREPACKED_LIMIT  # the same for both, or it would decide
    loaded = [load(request, index, prepack=prepack) for index in range(len(manifests))]
    sessions = [one.session for one in loaded]
    outputs = [manifest.signature.output_names for manifest in manifests]
    example = _common_example(request, loaded, outputs)
    taken: tuple[list[float], list[float]] = ([], [])
    computed: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + request.seconds
    while len(taken[0]) < _LEAST_ROUNDS or (time.perf_counter() < until and len(taken[0]) < _MOST_ROUNDS):
        # The order alternates too, since the second to run finds warmer or colder caches.
        for side in (0, 1) if len(taken[0]) % 2 else (1, 0):
            began, began_cpu = time.perf_counter(), time.process_time()
            sessions[side].run(example.inputs, outputs[side])
            computed[side].append(time.process_time() - began_cpu)
            taken[side].append(time.perf_counter() - began)
    on_cpu = all(session.device == "cpu" for session in sessions)
    waited = (np.median(elapsed) > _BUSY * np.median(cpu) for elapsed, cpu in zip(taken, computed, strict=True))
    busy = on_cpu and any(waited)
    measured = computed if busy else taken
    return {
        "rounds": len(taken[0]),
        "busy": busy,
        "p50": [float(np.quantile(times, 0.5)) for times in measured],
        "p99": [float(np.quantile(times, 0.99)) for times in measured],
        "example": example.name,
    }


def optimise(request: SandboxRequest) -> dict[str, Any]:
    """Writes two versions as optimised by ONNX Runtime, each to a directory named by its index."""
    memory.limit_data(request.memory_limit + sum(LOADING * manifest.size for _, manifest in request.versions))
    for index, (source, _) in enumerate(request.versions):
        directory = request.scratch / str(index)
        directory.mkdir()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(directory / MODEL_FILE)
        try:
            ort.InferenceSession(str(source / MODEL_FILE), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise load_failure(error) from error
    return {"weights": [_weights(request.scratch / str(index)) for index in range(len(request.versions))]}


def _synthetic(
    request: SandboxRequest, session: Session, known: Recipe | None, tried: Sequence[Recipe]
) -> Iterator[Example]:
    """Yields synthetic inputs by the first recipe that the model runs on; their names include the recipe.

    A recipe that is known to produce a sample is tried before the others.
    """
    _, manifest = request.versions[0]
    signature, outputs = manifest.signature, manifest.signature.output_names
    order = tried if known is None else [known, *(recipe for recipe in tried if recipe != known)]
    for recipe, inputs in synthetic_by_recipe(signature, order, {}):
        try:
            with request.trying(f"{recipe}, more rows"):
                session.run(inputs, outputs)
        except TurnoutError:
            continue
        for seed in range(1, SYNTHETIC_INPUTS + 1):
            yield Example(
                f"synthetic input {seed} ({recipe})", False, synthetic_inputs(signature, recipe, {}, seed=seed)
            )
        return


def _common_example(
    request: SandboxRequest, loaded: Sequence[TrialSession], outputs: Sequence[Sequence[str]]
) -> Example:
    """Returns the first example that both versions answer.

    Raises:
        ModelFailure: There is no example that both answer.
    """
    (_, first), (_, second) = request.versions
    case = next((e for e in golden_examples(request.golden, first.signature) if not e.fault), None)
    cases = [] if case is None else [first_row(case, first.signature), case]
    sizes = _values_become_sizes(request.graph(), first)
    tried = recipes(values_become_sizes=sizes, sizes=loaded[0].shapes.usual)
    for example in chain(cases, _synthetic(request, loaded[0].session, None, tried)):
        with contextlib.suppress(TurnoutError):
            check_fit(example.inputs, second.signature)
            for one, names in zip(loaded, outputs, strict=True):
                with _guarded(request, example):
                    one.session.run(example.inputs, names)
            return example
    raise ModelFailure("no input was found that both accept")


def _answer(
    request: SandboxRequest, session: Session, example: Example, names: Sequence[str]
) -> tuple[dict[str, Array], str]:
    if example.fault:
        return {}, example.fault
    try:
        with _guarded(request, example):
            return dict(zip(names, session.run(example.inputs, names), strict=True)), ""
    except TurnoutError as error:
        return {}, request.client_message(error)


def _guarded(request: SandboxRequest, example: Example) -> AbstractContextManager[None]:
    return contextlib.nullcontext() if example.golden else request.attempts.attempt(example.name, request.run_seconds)


def _repeated(
    session: Session, manifest: Manifest, sample: Mapping[str, Array] | None, names: Sequence[str]
) -> dict[str, Any]:
    if sample is None:
        return {"repeatable": None, "wander": 0.0, "strays": False}
    one, other = session.run(sample, names), session.run(sample, names)
    pairs = list(zip(one, other, manifest.signature.outputs, strict=True))
    same = all(identical(a, b) for a, b, _ in pairs)
    wander = max((largest_difference(a, b) for a, b, _ in pairs), default=0.0)
    strays = any(differs(a, b, tolerance_of(manifest, spec)) for a, b, spec in pairs)
    return {"repeatable": same, "wander": min(wander, 1e300), "strays": strays}


if __name__ == "__main__":
    main()
