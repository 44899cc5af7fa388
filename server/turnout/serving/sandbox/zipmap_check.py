"""Verifies that a model gives the same answers without its ZipMap, by running both in a child process of a trial."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from turnout.errors import InvalidModel
from turnout.registry.manifest.signature import Signature
from turnout.registry.onnx.messages import NO_MODEL
from turnout.registry.onnx.model import read_model
from turnout.registry.onnx.zipmap import Unzipped, drop_zipmap
from turnout.registry.storage.golden import read_case
from turnout.serving.inputs.sample import Trying
from turnout.serving.inputs.synthetic import Recipe, synthetic_inputs
from turnout.serving.sandbox.processes import DROPPED_FILE
from turnout.serving.sessions import providers
from turnout.serving.sessions.tensor import Array

_RECIPES = (Recipe(5, 0, 2), Recipe(1, 0, 2), Recipe(5, 0, 256))
"""Recipes for synthetic inputs: five rows, one row, and larger integers."""


def without_zipmap(model: Path, scratch: Path, golden: Sequence[Path], trying: Trying) -> dict[str, Any]:
    """Writes the model without its ZipMap to `scratch`, and runs both models, on synthetic inputs and golden cases.

    Returns `labels` by output, and `rows`, the number of rows that both answered alike.

    Raises:
        InvalidModel: The model has no ZipMap to remove, the answers differ, or no inputs are found that both accept.
    """
    try:
        proto = onnx.load(model, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise InvalidModel(NO_MODEL) from error
    unzipped = drop_zipmap(proto)
    target = scratch / DROPPED_FILE
    target.write_bytes(proto.SerializeToString(deterministic=True))
    signature = read_model(target).signature
    before, after = _session(model), _session(target)
    rows, trouble = 0, ""
    for what, inputs in _examples(signature, golden):
        try:
            with trying(what):
                old, new = before.run(None, inputs), after.run(None, inputs)
        except Exception as error:  # noqa: BLE001 - any error of ONNX Runtime means that it does not run on these inputs
            trouble = trouble or str(error).splitlines()[0][:200]
            continue
        was, now = (
            dict(zip([output.name for output in session.get_outputs()], answer, strict=True))
            for session, answer in ((before, old), (after, new))
        )
        rows += _compare(was, now, unzipped)
    if not rows:
        raise InvalidModel(
            f"no inputs were found on which the model runs, so that nothing shows that it answers alike without its"
            f" ZipMap ({trouble or 'none were tried'}); give it some with --golden"
        )
    return {"labels": {one.output: list(map(str, one.keys)) for one in unzipped}, "rows": rows}


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(path, options, providers=[providers.CPU])
    except Exception as error:
        raise InvalidModel("ONNX Runtime cannot load the model") from error


def _examples(signature: Signature, golden: Sequence[Path]) -> Iterator[tuple[str, Mapping[str, Array]]]:
    for path in golden:
        yield path.name, read_case(path, sides=("inputs",)).inputs
    for seed, recipe in enumerate(_RECIPES):
        yield str(recipe), synthetic_inputs(signature, recipe, {}, seed)


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], unzipped: Sequence[Unzipped]) -> int:
    """Compares two answers to the same inputs and returns their number of rows. Raises InvalidModel if they differ."""
    maps = {one.output: one for one in unzipped}
    rows = 0
    for name, was in old.items():
        now = new[name]
        if (one := maps.get(name)) is None:
            alike = np.array_equal(np.asarray(was), np.asarray(now), equal_nan=np.asarray(was).dtype.kind == "f")
        else:
            rows = len(was)
            alike = now.shape == (rows, len(one.keys)) and all(_row(one, was[i], now[i]) for i in range(rows))
        if not alike:
            raise InvalidModel(f"the model answers differently without its ZipMap: output {name!r} differs")
    return rows


def _row(one: Unzipped, was: Mapping[str | int, float], now: Array) -> bool:
    return set(was) == set(one.keys) and np.array_equal(
        np.array([was[key] for key in one.keys], np.float32), now.astype(np.float32), equal_nan=True
    )
