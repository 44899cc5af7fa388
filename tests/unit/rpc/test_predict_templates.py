"""`turnout.v1` requests that are remembered: read again, they are what a parser makes of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from turnout.chunks import ChunkedBytes, Serialized
from turnout.rpc.parsing.templates import Found, Templates
from turnout.rpc.prediction import FIELDS, ITEM_FIELDS
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb

_texts = st.text(max_size=5)
_arrays = st.one_of(
    st.integers(1, 3).map(lambda rows: np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)),
    st.integers(1, 3).map(lambda size: np.arange(size, dtype=np.int64)),
    st.just(np.array(["a", "b"], object)),
    st.just(np.array([True])),
)


@st.composite
def requests(draw: st.DrawFn) -> pb.PredictRequest:
    inputs = [tensors.encode(name, draw(_arrays)) for name in draw(st.sampled_from(["x", "xy", "yx"]))]
    return pb.PredictRequest(
        model=draw(_texts),
        version=draw(_texts),
        request_id=draw(_texts),
        routing_key=draw(_texts),
        inputs=inputs,
        outputs=draw(st.lists(_texts, max_size=2)),
    )


@st.composite
def items(draw: st.DrawFn) -> pb.PredictStreamRequest:
    item = pb.PredictStreamRequest(request=draw(requests()), timeout_ms=draw(st.sampled_from([0, 50])))
    if draw(st.booleans()):
        item.sent_ms = draw(st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1)))
    return item


def remember(templates: Templates, data: bytes, request: pb.PredictRequest, timeout: float | None) -> None:
    if (outlined := templates.outline(data)) is not None:
        arrays = {tensor.name: tensors.decode(tensor) for tensor in request.inputs}
        names = tuple(request.outputs)
        templates.remember(outlined, request.model, request.version, arrays, names, {}, timeout, request.routing_key)


def check(found: Found, request: pb.PredictRequest) -> None:
    template, request_id, inputs, _ = found
    assert (template.model, template.selector, request_id) == (request.model, request.version, request.request_id)
    assert (template.routing_key, list(template.outputs)) == (request.routing_key, list(request.outputs))
    read = {tensor.name: tensors.decode(tensor) for tensor in request.inputs}
    assert list(inputs) == list(read)
    for name, array in read.items():
        assert inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(inputs[name], array)


def forms(data: bytes) -> list[Serialized]:
    return [data, ChunkedBytes([data[at : at + 7] for at in range(0, len(data), 7)])]


def changed(data: bytes, at: int, noise: bytes) -> bytes:
    return data[:at] + noise + data[at + len(noise) :]


@given(st.lists(requests(), min_size=1, max_size=5), st.integers(0, 80), st.binary(max_size=3))
def test_whatever_is_found_is_what_a_parser_reads(messages: list[pb.PredictRequest], at: int, noise: bytes) -> None:
    templates = Templates(FIELDS)
    for one in messages:
        remember(templates, one.SerializeToString(), one, None)
    for one in messages:
        for data in (one.SerializeToString(), changed(one.SerializeToString(), at, noise)):
            for found in filter(None, map(templates.find, forms(data))):
                check(found, pb.PredictRequest.FromString(data))


@given(st.lists(items(), min_size=1, max_size=5), st.integers(0, 80), st.binary(max_size=3))
def test_whatever_is_found_of_an_item_is_what_a_parser_reads(
    messages: list[pb.PredictStreamRequest], at: int, noise: bytes
) -> None:
    templates = Templates(ITEM_FIELDS)
    for one in messages:
        remember(templates, one.SerializeToString(), one.request, one.timeout_ms / 1e3 or None)
    for one in messages:
        for data in (one.SerializeToString(), changed(one.SerializeToString(), at, noise)):
            for found in filter(None, map(templates.find, forms(data))):
                item = pb.PredictStreamRequest.FromString(data)
                check(found, item.request)
                assert found[0].timeout == (item.timeout_ms / 1e3 or None)
                assert found[3] == (item.sent_ms if item.HasField("sent_ms") else None)


def test_a_request_that_differs_in_id_and_elements_is_found() -> None:
    templates = Templates(ITEM_FIELDS)

    def item(request_id: str, value: float, sent: int) -> pb.PredictStreamRequest:
        x = tensors.encode("x", np.full((1, 4), value, np.float32))
        request = pb.PredictRequest(model="m", request_id=request_id, inputs=[x])
        return pb.PredictStreamRequest(request=request, sent_ms=sent)

    first, again = item("a1", 1.0, 1_000_000), item("b2", 2.0, 1_000_001)
    remember(templates, first.SerializeToString(), first.request, None)
    for data in forms(again.SerializeToString()):
        found = templates.find(data)
        assert found is not None
        check(found, again.request)
        assert found[3] == 1_000_001


def test_an_item_that_cancels_is_never_taken_for_a_request() -> None:
    templates = Templates(ITEM_FIELDS)
    request = pb.PredictRequest(model="m", request_id="a", inputs=[tensors.encode("x", np.zeros(2, np.float32))])
    data = pb.PredictStreamRequest(request=request).SerializeToString()
    both = data + pb.PredictStreamRequest(cancel="a").SerializeToString()
    assert pb.PredictStreamRequest.FromString(both).WhichOneof("item") == "cancel"
    remember(templates, data, request, None)
    assert templates.find(data) is not None
    assert templates.find(both) is None
