"""The child's side of `turnout.serving.trial`: one question, one answer, both in a scratch directory.

It is forked by `turnout.serving.sandbox.warm`, or run as `python -m turnout.serving.trial_child SCRATCH PARENT`; either
way it dies with the process that started it.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from turnout import host
from turnout.config import Runtime
from turnout.errors import InvalidModel, ModelFailure, TurnoutError
from turnout.registry.agreement import differs, largest_difference, tolerance_of
from turnout.registry.golden import GOLDEN_DIRECTORY, read_case
from turnout.registry.manifest import MODEL_FILE, Manifest
from turnout.registry.onnx_graph import read_graph
from turnout.registry.signature import DataType, Signature
from turnout.serving import providers
from turnout.serving.batchability import prove
from turnout.serving.sandbox.processes import ANSWER_FILE, ANSWERS_FILE, JOB_FILE
from turnout.serving.session import Session
from turnout.serving.synthetic import FREE_SIZES, INTEGERS_BELOW, synthetic_inputs
from turnout.serving.tensor import NUMPY_DTYPES, Array
from turnout.serving.warmup import warm_up

SYNTHETIC_INPUTS = 8
"""Made-up inputs that a version answers besides golden cases."""

PREPACKED_LIMIT = 1 << 30
"""Bytes of a version from which its weights are not copied into the kernels' own form: with that copy a MatMul of 2 GiB
took 4.1 GiB, without it 2.1 GiB, all of it mapped from the file. What is measured of such a version is a little slower
and smaller than what will be served."""

_WARM_RUNS = 3
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 400


@dataclass(frozen=True, slots=True)
class Example:
    """One input to run a version on.

    Attributes:
        name: Of the example, the same for every version that it is given to.
        golden: It is a golden case.
        inputs: By name.
        fault: Why the version cannot be given it; "" where it can.
    """

    name: str
    golden: bool
    inputs: Mapping[str, Array]
    fault: str = ""


def main() -> None:
    """Answers, in a process that was started for it."""
    host.die_with_parent(int(sys.argv[2]))
    host.write_no_core()  # a crash is what this process is for
    providers.start_runtime()
    answer(Path(sys.argv[1]))


def answer(scratch: Path) -> None:
    """Answers the question in a scratch directory, and leaves the answer there."""
    job = json.loads((scratch / JOB_FILE).read_bytes()) | {"scratch": scratch}
    try:
        told = {"examine": examine, "race": race, "optimise": optimise}[job["question"]](job)
    except TurnoutError as error:
        told = {"error": {"kind": type(error).__name__, "message": error.message}}
    except MemoryError:
        told = {"error": {"kind": "MemoryBudgetExceeded", "message": "memory ran out"}}
    (scratch / ANSWER_FILE).write_text(json.dumps(told))


def examine(job: Mapping[str, Any]) -> dict[str, Any]:
    """Loads one version, proves how it batches, warms it, and has it answer."""
    (subject,) = job["subjects"]
    manifest = Manifest.from_json(subject["manifest"])
    before = host.reset_peak()
    session, load_seconds = _load(subject, manifest, Runtime(**job["runtime"]), manifest.size < PREPACKED_LIMIT)
    examples = _golden(job["golden"], manifest.signature)
    sound = [e.inputs for e in examples if not e.fault]
    graph = read_graph(Path(subject["directory"]) / MODEL_FILE)
    plan = prove(session.run, manifest, job["max_rows"], sound, graph)
    names = [spec.name for spec in manifest.signature.outputs]
    # One row: which batches pay depends on what else the machine does, and the peak of memory would with it.
    warmth = warm_up(session.run, replace(plan, max_rows=0), names, _WARM_RUNS, only_where_it_pays=True)
    examples += _synthetic(session, manifest.signature, names)
    arrays: dict[str, Array] = {}
    answers: list[dict[str, Any]] = []
    for index, example in enumerate(examples):
        outputs, fault = _answer(session, example, names)
        arrays |= {f"{index}/{name}": _plain(array) for name, array in outputs.items()}
        answers.append({"example": example.name, "golden": example.golden, "outputs": list(outputs), "fault": fault})
    np.savez(job["scratch"] / ANSWERS_FILE, **arrays)  # type: ignore[arg-type]  # none is named allow_pickle
    return {
        "provider": session.providers[0],
        "load_seconds": load_seconds,
        "run_seconds": warmth.seconds_by_rows.get(1, 0.0),
        "peak_bytes": max(host.peak_bytes() - before, 0),
        "warning": warmth.warning,
        "batched": plan.max_rows > 1,
        "mixes": plan.mixes,
        "batching": plan.reason,
        **_repeated(session, manifest, plan.sample, names),
        "answers": answers,
    }


def race(job: Mapping[str, Any]) -> dict[str, Any]:
    """Runs two versions in turns on one input that both take."""
    runtime = Runtime(**job["runtime"])
    manifests = [Manifest.from_json(subject["manifest"]) for subject in job["subjects"]]
    prepack = max(manifest.size for manifest in manifests) < PREPACKED_LIMIT  # the same for both, or it would decide
    sessions = [
        _load(subject, manifest, runtime, prepack)[0]
        for subject, manifest in zip(job["subjects"], manifests, strict=True)
    ]
    outputs = [[spec.name for spec in manifest.signature.outputs] for manifest in manifests]
    example = _common_example(job["golden"], sessions, manifests, outputs)
    taken: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + job["seconds"]
    while len(taken[0]) < _LEAST_ROUNDS or (time.perf_counter() < until and len(taken[0]) < _MOST_ROUNDS):
        # Turns are taken in turns: whoever comes second finds warmer or colder caches.
        for side in (0, 1) if len(taken[0]) % 2 else (1, 0):
            began = time.perf_counter()
            sessions[side].run(example.inputs, outputs[side])
            taken[side].append(time.perf_counter() - began)
    return {
        "rounds": len(taken[0]),
        "p50": [float(np.quantile(times, 0.5)) for times in taken],
        "p99": [float(np.quantile(times, 0.99)) for times in taken],
        "example": example.name,
    }


def optimise(job: Mapping[str, Any]) -> dict[str, Any]:
    """Writes two versions as ONNX Runtime optimises them, each under its number."""
    for index, subject in enumerate(job["subjects"]):
        directory = job["scratch"] / str(index)
        directory.mkdir()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(directory / MODEL_FILE)
        try:
            ort.InferenceSession(
                str(Path(subject["directory"]) / MODEL_FILE), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelFailure(f"ONNX Runtime cannot optimise it ({type(error).__name__})") from error
    return {}


def _load(subject: Mapping[str, Any], manifest: Manifest, runtime: Runtime, prepack: bool) -> tuple[Session, float]:
    names = providers.choose([] if runtime.providers == "auto" else [str(p) for p in runtime.providers])
    device = runtime.device_ids[0] if names[0] != providers.CPU else 0
    began = time.perf_counter()
    file = Path(subject["directory"]) / MODEL_FILE
    session = Session(file, manifest.signature, names, device, runtime, prepack=prepack)
    return session, time.perf_counter() - began


def _golden(paths: Sequence[str], signature: Signature) -> list[Example]:
    """Reads golden cases; one that another version brought under a name that is taken gets a number."""
    examples: list[Example] = []
    names: set[str] = set()
    for path in map(Path, paths):
        name, number = f"{GOLDEN_DIRECTORY}/{path.name}", 2
        while name in names:
            name, number = f"{GOLDEN_DIRECTORY}/{path.name} ({number})", number + 1
        names.add(name)
        try:
            inputs = _fitting(read_case(path).inputs, signature)
        except InvalidModel as error:
            examples.append(Example(name, True, {}, error.message))
        else:
            examples.append(Example(name, True, inputs))
    return examples


def _fitting(inputs: Mapping[str, Array], signature: Signature) -> Mapping[str, Array]:
    """Returns inputs of a case that the signature takes.

    Raises:
        InvalidModel: It does not take them.
    """
    for spec in signature.inputs:
        array = inputs.get(spec.name)
        if array is None:
            if not spec.has_default:
                raise InvalidModel(f"it lacks the input {spec.name}")
        elif array.dtype != NUMPY_DTYPES[spec.dtype]:
            raise InvalidModel(f"its input {spec.name} is {array.dtype}, the model takes {spec.dtype}")
        elif array.ndim != len(spec.shape) or any(
            isinstance(fixed, int) and fixed != size for fixed, size in zip(spec.shape, array.shape, strict=True)
        ):
            raise InvalidModel(f"its input {spec.name} has shape {list(array.shape)}, the model takes {spec}")
    if unknown := sorted(inputs.keys() - {spec.name for spec in signature.inputs}):
        raise InvalidModel(f"it has an input {unknown[0]} that the model has not")
    return inputs


def _synthetic(session: Session, signature: Signature, outputs: Sequence[str]) -> list[Example]:
    """Makes up inputs of the first kind that the model runs on; their names tell that kind."""
    for below in INTEGERS_BELOW:
        for size in FREE_SIZES:
            try:
                session.run(synthetic_inputs(signature, size, below, {}, seed=1), outputs)
            except TurnoutError:
                continue
            return [
                Example(
                    f"synthetic input {seed} (free sizes {size}, integers below {below})",
                    False,
                    synthetic_inputs(signature, size, below, {}, seed=seed),
                )
                for seed in range(1, SYNTHETIC_INPUTS + 1)
            ]
    return []


def _common_example(
    golden: Sequence[str],
    sessions: Sequence[Session],
    manifests: Sequence[Manifest],
    outputs: Sequence[Sequence[str]],
) -> Example:
    """Returns the first example that both versions answer.

    Raises:
        ModelFailure: There is none.
    """
    first = manifests[0].signature
    cases = [e for e in _golden(golden, first) if not e.fault]
    rows = [_first_row(case, first) for case in cases[:1]]
    for example in rows + cases + _synthetic(sessions[0], first, outputs[0]):
        with contextlib.suppress(TurnoutError):
            _fitting(example.inputs, manifests[1].signature)
            for session, names in zip(sessions, outputs, strict=True):
                session.run(example.inputs, names)
            return example
    raise ModelFailure("no input was found that both take")


def _first_row(case: Example, signature: Signature) -> Example:
    """Returns the first row of a case of many: single requests are what latency is about."""
    free = {spec.name for spec in signature.inputs if spec.shape and not isinstance(spec.shape[0], int)}
    inputs = {name: array[:1] if name in free else array for name, array in case.inputs.items()}
    return Example(f"the first row of {case.name}", True, inputs)


def _answer(session: Session, example: Example, names: Sequence[str]) -> tuple[dict[str, Array], str]:
    if example.fault:
        return {}, example.fault
    try:
        return dict(zip(names, session.run(example.inputs, names), strict=True)), ""
    except TurnoutError as error:
        return {}, error.message


def _repeated(
    session: Session, manifest: Manifest, sample: Mapping[str, Array] | None, names: Sequence[str]
) -> dict[str, Any]:
    """Runs one input twice."""
    if sample is None:
        return {"repeatable": None, "wander": 0.0, "strays": False}
    one, other = session.run(sample, names), session.run(sample, names)
    pairs = list(zip(one, other, manifest.signature.outputs, strict=True))
    same = all(a.shape == b.shape and _bits(a) == _bits(b) for a, b, _ in pairs)
    wander = max((largest_difference(a, b) for a, b, _ in pairs), default=0.0)
    strays = any(differs(a, b, tolerance_of(manifest, spec)) for a, b, spec in pairs)
    return {"repeatable": same, "wander": min(wander, 1e300), "strays": strays}


def _bits(array: Array) -> object:
    return array.tolist() if array.dtype == object else array.tobytes()


def _plain(array: Array) -> Array:
    """Returns `array` in a dtype that NumPy writes without pickling."""
    if array.dtype == object:
        return array.astype(np.str_)
    return array.astype(np.float32) if array.dtype == NUMPY_DTYPES[DataType.BFLOAT16] else array


if __name__ == "__main__":
    main()
