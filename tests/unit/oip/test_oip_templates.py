"""Requests that are remembered by what they have in common: read again, they are what a parser makes of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.rpc.oip.codec import FIELDS, decode_inputs
from turnout.rpc.parsing.templates import Templates
from turnout_proto.oip.inference_pb2 import ModelInferRequest


def infer(
    *arrays: np.ndarray,
    request_id: str = "",
    model: str = "m",
    version: str = "",
    names: str = "xyz",
    **parameters: str,
) -> ModelInferRequest:
    message = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, array in zip(names, arrays, strict=False):
        message.inputs.add(
            name=name, datatype={"f": "FP32", "i": "INT64", "b": "BOOL"}[array.dtype.kind], shape=array.shape
        )
        message.raw_input_contents.append(array.tobytes())
    for key, value in parameters.items():
        message.parameters[key].string_param = value
    return message


def remember(templates: Templates, data: bytes) -> None:
    message = ModelInferRequest.FromString(data)
    if (outlined := templates.outline(data)) is not None:
        outputs = tuple(output.name for output in message.outputs)
        model, selector, inputs = message.model_name, message.model_version, decode_inputs(message)
        templates.remember(outlined, model, selector, inputs, outputs, {}, None, "")


def remembering(*messages: ModelInferRequest) -> Templates:
    templates = Templates(FIELDS)
    for message in messages:
        remember(templates, message.SerializeToString())
    return templates


def same(found: dict[str, Any], message: ModelInferRequest) -> bool:
    wanted = decode_inputs(message)
    return list(found) == list(wanted) and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in wanted.items()
    )


X, Y = np.float32([[1, 2], [3, 4]]), np.int64([7])


@pytest.mark.parametrize("request_id", ["", "a", "a4d20f9a-5f3e-4a86-b0b1-8f1e6d0c2b11", "größe"])
@pytest.mark.parametrize("arrays", [(X,), (X, Y), (X[:0],), (Y, X, X)], ids=["one", "two", "no rows", "three"])
def test_a_request_like_one_before_is_its_elements_and_its_id(request_id: str, arrays: tuple[np.ndarray, ...]) -> None:
    templates = remembering(infer(*arrays, request_id=request_id, version="^1"))
    again = infer(*(array + 1 for array in arrays), request_id=request_id.translate({97: 98}), version="^1")
    found = templates.find(again.SerializeToString())
    assert found is not None
    template, found_id, inputs, _ = found
    assert (template.model, template.selector, found_id) == ("m", "^1", again.id)
    assert same(inputs, again)
    assert all(array.flags.aligned for array in inputs.values())


@pytest.mark.parametrize(
    "other",
    [
        infer(X, model="n"),
        infer(X, version="1"),
        infer(X, names="y"),
        infer(X.reshape(1, 4)),
        infer(X.reshape(4)),
        infer(X.view(np.int64)),
        infer(X, X),
        infer(X, request_id="i"),
        infer(X, routing_key="k"),
    ],
    ids=["model", "version", "name", "shape", "rank", "type", "inputs", "id", "parameter"],
)
def test_a_request_that_differs_in_anything_else_is_a_new_one(other: ModelInferRequest) -> None:
    assert remembering(infer(X)).find(other.SerializeToString()) is None


def test_what_stands_between_two_tensors_is_looked_at() -> None:
    message = infer(Y, Y)
    data = message.SerializeToString()
    templates = remembering(message)
    between = len(data) - 8 - 2
    assert templates.find(data) is not None
    assert templates.find(data[:between] + b"\x42" + data[between + 1 :]) is None


@pytest.mark.parametrize(
    "message",
    [
        infer(np.array([True, False])),
        infer(),
        infer(X, p="q" * 2000),
    ],
    ids=["elements to be looked at", "no tensors", "long parameters"],
)
def test_some_are_not_remembered(message: ModelInferRequest) -> None:
    assert remembering(message).find(message.SerializeToString()) is None


def test_strings_are_not_remembered() -> None:
    message = ModelInferRequest(model_name="m", raw_input_contents=[b"\x01\x00\x00\x00a"])
    message.inputs.add(name="x", datatype="BYTES", shape=[1])
    assert remembering(message).find(message.SerializeToString()) is None


def test_an_id_that_is_no_text_is_left_to_the_parser() -> None:
    message = infer(X, request_id="abc")
    assert remembering(message).find(message.SerializeToString().replace(b"abc", b"\xff\xfe\xfd")) is None


def test_bytes_that_merely_look_like_the_id_are_none() -> None:
    """The id is where a parser finds it, also in a message that is laid out as no client does."""
    head = ModelInferRequest(model_name="m")
    head.parameters["k"].string_param = "\x1a\x03abc"
    head.inputs.add(name="x", datatype="INT64", shape=[1])
    tail = ModelInferRequest(raw_input_contents=[Y.tobytes()]).SerializeToString()
    data = head.SerializeToString() + b"\x1a\x83\x00abc" + tail  # the true id, its length written in two bytes
    assert ModelInferRequest.FromString(data).id == "abc"
    templates = Templates(FIELDS)
    remember(templates, data)
    found = templates.find(data[: -len(tail) - 3] + b"xyz" + tail)
    assert found is not None
    assert found[1] == "xyz"
    assert templates.find(data.replace(b"\x03abc", b"\x03xyz")) is None  # that is the parameter


def test_fields_after_the_elements_are_not_overlooked() -> None:
    data = infer(X).SerializeToString() + ModelInferRequest(model_name="n").SerializeToString()
    assert ModelInferRequest.FromString(data).model_name == "n"
    templates = Templates(FIELDS)
    remember(templates, data)
    found = templates.find(data)
    assert found is not None
    assert found[0].model == "n"
    assert templates.find(data[:-1] + b"o") is None


@pytest.mark.parametrize(
    "data",
    [
        infer(X, request_id="a").SerializeToString() + ModelInferRequest(id="b").SerializeToString(),
        infer(X).SerializeToString() + b"\x1b\x1c",
        infer(X).SerializeToString() + b"\x18\x01",
    ],
    ids=["two ids", "a group", "an id of another type"],
)
def test_a_message_that_is_laid_out_otherwise_is_not_remembered(data: bytes) -> None:
    templates = Templates(FIELDS)
    remember(templates, data)
    assert templates.find(data) is None


def test_requests_that_never_come_again_are_not_remembered_for_long() -> None:
    """A client that puts something of its own into each request is one in sixty-four times worth the work."""
    templates = Templates(FIELDS)
    for number in range(1000):
        data = infer(X, trace=f"{number:04}").SerializeToString()
        assert templates.find(data) is None
        remember(templates, data)
    assert templates._count < 40
    again = infer(X, trace="same").SerializeToString()
    for _ in range(65):  # and one that does come again is found before long
        if templates.find(again) is not None:
            break
        remember(templates, again)
    for number in range(10):
        remember(templates, infer(X, trace=f"x{number:03}").SerializeToString())
    assert templates.find(again) is not None
    assert templates._count > 40


def test_more_requests_than_are_remembered_cost_no_more_memory() -> None:
    templates = remembering(*(infer(X, model=f"m{n}") for n in range(5000)))
    assert templates._count <= 4096
    assert templates.find(infer(X, model="m4999").SerializeToString()) is not None


_texts = st.text(max_size=6)


@given(
    st.lists(
        st.builds(
            lambda model, request_id, key, rows: infer(
                np.arange(rows * 2, dtype=np.float32).reshape(rows, 2), Y, model=model, request_id=request_id, k=key
            ),
            _texts, _texts, _texts, st.integers(0, 3),
        ),
        min_size=1, max_size=6,
    ),
    st.integers(0, 5), st.binary(max_size=3), st.integers(0, 200),
)  # fmt: skip
def test_whatever_is_found_is_what_a_parser_reads(
    messages: list[ModelInferRequest], pick: int, noise: bytes, at: int
) -> None:
    templates = remembering(*messages)
    data = messages[pick % len(messages)].SerializeToString()
    changed = data[:at] + noise + data[at + len(noise) :]
    for one in (*(m.SerializeToString() for m in messages), changed):
        found = templates.find(one)
        if found is None:
            continue
        read = ModelInferRequest.FromString(one)
        template, request_id, inputs, _ = found
        assert (template.model, template.selector, request_id) == (read.model_name, read.model_version, read.id)
        assert same(inputs, read)
