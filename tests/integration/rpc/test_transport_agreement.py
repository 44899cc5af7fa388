"""Both transports make the same of the same call: status, words, details, metadata and the bytes of the answers.

gRPC's own library is the oracle for the transport on h2corn.
"""

import asyncio
import base64
import gzip
import struct
import zlib
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzzing import mutated
from http2_client import BOUND, Http2Client, message
from onnx_models import scaled, slow, string_identity
from transport_outcomes import Outcome, RawCall, outcome, send
from turnout.config import Address
from turnout_proto import tensors
from turnout_proto.oip import inference_pb2
from turnout_proto.v1 import catalog_pb2
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X

PREDICT = "/turnout.v1.PredictionService/Predict"
PREDICT_STREAM = "/turnout.v1.PredictionService/PredictStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


def _predict(model: str, version: str = "", **more: object) -> pb.PredictRequest:
    return pb.PredictRequest(model=model, version=version, inputs=[tensors.encode("x", X)], **more)


def _infer(model: str, datatype: str = "FP32", **more: object) -> inference_pb2.ModelInferRequest:
    request = inference_pb2.ModelInferRequest(model_name=model, raw_input_contents=[X.tobytes()], **more)
    request.inputs.add(name="x", datatype=datatype, shape=[1, 4])
    return request


_PREDICTIONS = (
    _predict("m"),
    _predict("m", "^1", request_id="r", outputs=["y"], routing_key="k"),
    _predict("m", "^9"),
    _predict("m", "^^"),
    _predict("grün ✓"),
    _predict("m", outputs=["nobody"]),
    pb.PredictRequest(model="m"),
    pb.PredictRequest(model="s", inputs=[tensors.encode("x", X.astype(str).ravel())]),
)
_ITEMS = (
    *(pb.PredictStreamRequest(request=one) for one in _PREDICTIONS),
    pb.PredictStreamRequest(cancel="r"),
    pb.PredictStreamRequest(),
)
_INFERENCES = (_infer("m"), _infer("m", id="r", model_version="1.0.0"), _infer("q"), _infer("m", "INT8"), _infer(""))
_VALID: dict[str, tuple[Message, ...]] = {
    PREDICT: _PREDICTIONS,
    PREDICT_STREAM: _ITEMS,
    INFER: _INFERENCES,
    STREAM_INFER: _INFERENCES,
    "/turnout.v1.CatalogService/GetModel": (catalog_pb2.GetModelRequest(model="m"), catalog_pb2.GetModelRequest()),
    "/inference.GRPCInferenceService/ServerLive": (inference_pb2.ServerLiveRequest(),),
    "/inference.GRPCInferenceService/ModelMetadata": (inference_pb2.ModelMetadataRequest(name="m"),),
    "/inference.GRPCInferenceService/ModelStatistics": (inference_pb2.ModelMetadataRequest(name="m"),),
    **{
        f"/inference.GRPCInferenceService/{name}": (inference_pb2.ModelReadyRequest(name="m"), HealthCheckRequest())
        for name in ("ModelReady", "ModelConfig", "ServerReady", "ServerMetadata", "RepositoryIndex", "LogSettings")
    },
    **{
        f"/inference.GRPCInferenceService/{name}": (inference_pb2.ModelReadyRequest(name="m"),)
        for name in ("RepositoryModelLoad", "SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting")
    },
    **{
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": (
            reflection_pb2.ServerReflectionRequest(list_services="*", host="h"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="nothing"),
            reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="turnout.v1.PredictRequest"),
            reflection_pb2.ServerReflectionRequest(),
        )
        for version in ("v1", "v1alpha")
    },
    "/grpc.health.v1.Health/Check": (HealthCheckRequest(), HealthCheckRequest(service="model:m@^2")),
    "/turnout.v1.PredictionService/Nothing": (HealthCheckRequest(),),
    "/nobody.Service/Method": (HealthCheckRequest(),),
}
_STREAMS = {PREDICT_STREAM, STREAM_INFER, *(path for path in _VALID if "reflection" in path)}
_COMPRESS = {b"gzip": gzip.compress, b"deflate": zlib.compress}


@st.composite
def _payloads(draw: st.DrawFn, path: str) -> bytes:
    valid = draw(st.sampled_from(_VALID[path])).SerializeToString()
    kind = draw(st.sampled_from(["valid", "valid", "valid", "mutated", "random", "empty"]))
    if kind == "valid":
        return valid
    if kind == "mutated":
        return mutated(valid, draw(st.randoms(use_true_random=False)))
    return draw(st.binary(max_size=60)) if kind == "random" else b""


_ODD = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip).map(str.encode)
_BINARY = st.binary(max_size=20).flatmap(
    lambda raw: st.sampled_from([base64.b64encode(raw), base64.b64encode(raw).rstrip(b"=")])
)
_METADATA = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([b"x-other", b"user-agent", b"a_b.c-0"]), _ODD),
        st.tuples(st.sampled_from([b"trace-bin", b"grpc-trace-bin"]), _BINARY),
        st.tuples(st.just(b"x-routing-key"), _ODD | st.sampled_from([b"k" * 2000, "grün".encode(), b"\xff\xfe"])),
        st.tuples(
            st.sampled_from([b"grpc-previous-rpc-attempts", b"grpc-message-type", b"grpc-unknown"]), st.just(b"1")
        ),
        st.tuples(st.just(b"x-turnout-version"), st.sampled_from([b"1.0.0", b"^9", b"^^", b"latest"])),
        st.tuples(st.just(b"x-request-id"), _ODD),
        st.just((b"traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")),
        st.tuples(st.just(b"grpc-accept-encoding"), st.sampled_from([b"gzip", b"identity", b"identity,deflate,gzip"])),
    ),
    max_size=4,
)
_DEADLINES = st.sampled_from([None, None, None, b"20S", b"99999999H", b"1M", b"30000m"])


@st.composite
def calls(draw: st.DrawFn) -> RawCall:
    """Calls that HTTP/2 and gRPC's framing allow, with any messages."""
    path = draw(st.sampled_from([*_VALID, PREDICT, PREDICT_STREAM, INFER, STREAM_INFER]))
    payloads = draw(st.lists(_payloads(path), max_size=4)) if path in _STREAMS else [draw(_payloads(path))]
    metadata = draw(_METADATA)
    deadline = draw(_DEADLINES)
    if deadline is not None:
        metadata.append((b"grpc-timeout", deadline))
    encoding = draw(st.sampled_from([b"", b"", b"gzip", b"deflate", b"identity"]))
    if encoding:
        metadata.append((b"grpc-encoding", encoding))
    compress = _COMPRESS.get(encoding, bytes)
    pressed = [encoding in _COMPRESS and draw(st.booleans()) for _ in payloads]
    body = b"".join(
        message(compress(payload), 1) if press else message(payload)
        for payload, press in zip(payloads, pressed, strict=True)
    )
    sizes = draw(st.just(()) | st.lists(st.integers(1, 40), max_size=12).map(tuple))
    return RawCall(path, body, tuple(metadata), sizes)


@pytest.fixture
async def both(publish_model, start_server):
    """Sends a call to either transport, and returns what came of it: h2corn's first."""
    publish_model("m", "1.0.0", scaled(2))
    publish_model("s", "1.0.0", string_identity())
    publish_model("slow", "1.0.0", slow())
    addresses = [
        (await start_server(transport={"data": transport}, log={"level": "error"})).grpc
        for transport in ("h2corn", "grpcio")
    ]

    async def send(call: RawCall) -> list[Outcome]:
        return await asyncio.gather(*(outcome(address, call) for address in addresses))

    return send


@pytest.fixture
async def agree(both) -> Callable[[RawCall], None]:
    """Fails where the transports make different things of a call; for threads beside the event loop."""
    loop = asyncio.get_running_loop()

    def check(call: RawCall) -> None:
        ours, oracle = asyncio.run_coroutine_threadsafe(both(call), loop).result(60)
        assert ours == oracle

    return check


async def test_random_calls_end_alike(agree) -> None:
    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(calls())
    @example(RawCall(PREDICT, message(b"")))
    @example(RawCall(PREDICT_STREAM, b""))
    @example(RawCall(PREDICT, message(_predict("m").SerializeToString()), (), (1,) * 60))
    def check(call: RawCall) -> None:
        agree(call)

    await asyncio.to_thread(check)


_VALID_BODY = message(_predict("m").SerializeToString())
_GZIP = gzip.compress(_predict("m").SerializeToString())
_SLOW = pb.PredictRequest(model="slow", inputs=[tensors.encode("x", X), tensors.encode("n", np.int64(5_000_000))])


def _with(key: bytes, value: bytes, body: bytes = _VALID_BODY) -> RawCall:
    return RawCall(PREDICT, body, ((key, value),))


ALIKE = {
    "a length beyond the limit": RawCall(PREDICT, struct.pack(">BI", 0, 1 << 31) + b"x" * 100),
    "compressed, with no encoding named": RawCall(PREDICT, message(_GZIP, 1)),
    "said to be gzip, and is not": _with(b"grpc-encoding", b"gzip", message(b"no gzip", 1)),
    "gzip cut short": _with(b"grpc-encoding", b"gzip", message(_GZIP[:-9], 1)),
    "gzip, uncompressed": _with(b"grpc-encoding", b"gzip"),
    "gzip of nothing at all": _with(b"grpc-encoding", b"gzip", message(b"", 1)),
    "deflate of nothing at all": _with(b"grpc-encoding", b"deflate", message(b"", 1)),
    "gzip of a mebibyte": _with(
        b"grpc-encoding",
        b"gzip",
        message(gzip.compress(_predict("m", request_id="r" * (1 << 20)).SerializeToString()), 1),
    ),
    "a deadline that has passed": _with(b"grpc-timeout", b"0n"),
    "a deadline that passes meanwhile": _with(b"grpc-timeout", b"30m", message(_SLOW.SerializeToString())),
    "a deadline in no unit": _with(b"grpc-timeout", b"20"),
    "a deadline in words": _with(b"grpc-timeout", b"soon"),
    "a deadline below zero": _with(b"grpc-timeout", b"-5S"),
    "protobuf's content type": _with(b"content-type", b"application/grpc+proto"),
    "a content type with parameters": _with(b"content-type", b"application/grpc;a=b"),
    "a path of no service": RawCall("/", _VALID_BODY),
    "a path with a query": RawCall(PREDICT + "?a=b", _VALID_BODY),
    "a path in escapes": RawCall(PREDICT.replace("P", "%50"), _VALID_BODY),
    "a path that ends in a slash": RawCall(PREDICT + "/", _VALID_BODY),
    "high bytes in metadata": _with(b"x-other", "grün".encode()),
    "a reserved key": _with(b"grpc-nothing", b"a"),
    "the same key twice": RawCall(PREDICT, _VALID_BODY, ((b"x-other", b"a"), (b"x-other", b"b"))),
    "no items": RawCall(PREDICT_STREAM, b""),
    "frames of one byte": RawCall(PREDICT, _VALID_BODY, (), (1,) * len(_VALID_BODY)),
}
"""What gRPC's library answers as its specification says."""

BETTER = {
    "no message": (RawCall(PREDICT, b""), grpc.StatusCode.INTERNAL),
    "two messages": (RawCall(PREDICT, _VALID_BODY * 2), grpc.StatusCode.INTERNAL),
    "a message cut short": (RawCall(PREDICT, _VALID_BODY[:-3]), grpc.StatusCode.INTERNAL),
    "a prefix cut short": (RawCall(PREDICT, _VALID_BODY[:3]), grpc.StatusCode.INTERNAL),
    "an item cut short": (
        RawCall(PREDICT_STREAM, message(_ITEMS[1].SerializeToString())[:-3]),
        grpc.StatusCode.INTERNAL,
    ),
    "an unknown flag": (RawCall(PREDICT, message(_predict("m").SerializeToString(), 2)), grpc.StatusCode.INTERNAL),
    "binary metadata joined by a comma": (_with(b"trace-bin", b"YQ==,Yg=="), grpc.StatusCode.OK),
    "a key in capitals": (_with(b"X-Other", b"a"), grpc.StatusCode.INTERNAL),
    "an encoding that nobody knows": (
        _with(b"grpc-encoding", b"zstd", message(_GZIP, 1)),
        grpc.StatusCode.UNIMPLEMENTED,
    ),
}
"""What it lets hang (no message, or a part of one), or answers as if nothing were wrong; and what should come of it."""


async def test_what_is_odd_ends_alike(both) -> None:
    differ = {}
    for name, call in ALIKE.items():
        ours, oracle = await both(call)
        # The words are each transport's own, where the status is.
        same = (ours.code, ours.answers, ours.initial) == (oracle.code, oracle.answers, oracle.initial)
        if not same or (ours.message != "") != (ours.code is not grpc.StatusCode.OK):
            differ[name] = ours, oracle
    assert differ == {}


@pytest.fixture
async def served(publish_model, start_server) -> Address:
    """Where a server listens by h2corn."""
    publish_model("m", "1.0.0", scaled(2))
    return (await start_server(transport={"data": "h2corn"}, log={"level": "error"})).grpc


async def test_what_is_broken_is_refused_and_says_so(served) -> None:
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
        outcomes = {name: tasks.create_task(outcome(served, call)) for name, (call, _) in BETTER.items()}
    came = {name: (task.result().code, task.result().message != "") for name, task in outcomes.items()}
    assert came == {name: (code, code is not grpc.StatusCode.OK) for name, (_, code) in BETTER.items()}


async def test_another_content_type_is_no_call(served) -> None:
    async with Http2Client(served.host, served.port) as client:
        for content_type in (b"application/json", b"text/plain", b"application/grpc-web", b""):
            answer = await send(client, _with(b"content-type", content_type))
            assert answer.status == 415, content_type  # as gRPC over HTTP/2 has it
