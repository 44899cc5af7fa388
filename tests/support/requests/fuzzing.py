"""Generates broken messages for every service and route, from valid ones and a seed.

`messages` generates them. `Sender` sends them, and reports answers that must never occur: INTERNAL, UNKNOWN, 500, or a
call that hangs. benchmarks/fuzz.py sends many to a separate process, tests/integration/rpc/test_fuzz.py a few.
"""

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from random import Random
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from turnout.wire_format import delimited, varint
from turnout_client import Tls
from turnout_proto import tensors
from turnout_proto.oip import inference_pb2
from turnout_proto.v1 import catalog_pb2, control_pb2, prediction_pb2, registry_pb2
from wire import X

_DATA = (prediction_pb2, catalog_pb2, inference_pb2, health_pb2, reflection_pb2)
_CONTROL = (control_pb2, registry_pb2, channelz_pb2)

_NEVER = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}

_TIMEOUT = 20.0

REGION = "fuzz"
"""Name of a shared memory region of 64 bytes to which some requests refer. A test may have registered it."""

_CLIENTS_OWN = "Internal error from Core"
"""Message of grpcio's client, instead of the server's status, if a stream was refused while the client was writing."""

_TEXTS = ("f", "s", "f@1.0.0", "", "1.0.0", "^1", "latest", "x", "y", "FP32", "BYTES", "model:f", "é", "x" * 300,
          "\x00", "../..", "sha256:" + "0" * 64, "{}", "[]", '{"steps": []}', "request-1")  # fmt: skip
_NUMBERS = (0, 1, 2, 4, -1, 127, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
_JSON_VALUES = ("\ud800", "", "f", "nan", 0, -1, 1.5, 1e308, 2**63, 2**64, 10**40, True, None, [], {}, [[]],
                [[1], 2], {"": 0}, [None], ["\udfff"], "x" * 70_000, [1] * 5000, [[[[[[[[[[1]]]]]]]]]])  # fmt: skip
_HEADERS = ("x-request-id", "x-routing-key", "x-turnout-role", "x-turnout-version", "traceparent", "content-encoding",
            "inference-header-content-length", "content-type", "accept")  # fmt: skip
_HEADER_VALUES = ("", "0", "1", "-1", "99999999999999999999", "baseline", "gzip", "deflate", "identity", "\xff\xfe",
                  "x" * 2000, "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "é")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """One gRPC call.

    Attributes:
        method: Path of the method.
        streams: Whether requests and answers are streams.
        payloads: Serialized requests.
        control: Whether to call the control listener.
    """

    method: str
    streams: tuple[bool, bool]
    payloads: Sequence[bytes]
    control: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request in bytes."""

    head: bytes
    body: bytes


def messages(seed: int) -> Iterator[Call | Request]:
    """Yields an endless sequence of messages, which is the same for the same seed."""
    random = Random(seed)
    methods = list(methods_of_all_services())
    seeds = {path: _valid(path, method, random) for path, method, *_ in methods}
    inference = [m for m in methods if m[0].endswith(("Predict", "PredictStream", "ModelInfer", "ModelStreamInfer"))]
    while True:
        if random.random() < 0.3:
            yield _http(random)
            continue
        path, descriptor, request, control = random.choice(inference if random.random() < 0.5 else methods)
        streams = descriptor.client_streaming, descriptor.server_streaming
        payloads = []
        for _ in range(random.randint(1, 3) if descriptor.client_streaming else 1):
            valid = random.choice(seeds[path]) if random.random() < 0.6 else _populated(request, random)
            payloads.append(mutated(valid, random))
        yield Call(path, streams, payloads, control)


def mutated(data: bytes, random: Random) -> bytes:
    """Returns `data` with one to four mutations."""
    for _ in range(random.randint(1, 4)):
        data = random.choice(_MUTATIONS)(data, random)[: 1 << 20]
    return data


def _flip(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if out:
            out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _piece(data: bytes, random: Random) -> bytes:
    start = random.randint(0, len(data))
    return data[start : start + random.randint(0, 32)]


def _inserted(data: bytes, piece: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + piece + data[at:]


def _wrapped(data: bytes, random: Random) -> bytes:
    number = random.randint(1, 8)
    for _ in range(random.choice((1, 2, 120))):
        data = delimited(number, data)
    return data


def _overwritten(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    lie = random.choice(
        (b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x7f", b"\x80", b"\x00", varint(random.getrandbits(40)))
    )
    return data[:at] + lie + data[at + 1 :]


_MUTATIONS: Sequence[Callable[[bytes, Random], bytes]] = (
    _flip,
    _cut,
    _wrapped,
    _overwritten,
    lambda data, random: _inserted(data, random.randbytes(random.randint(1, 8)), random),
    lambda data, random: _inserted(data, _piece(data, random) * random.choice((1, 2, 500)), random),
    lambda data, random: _inserted(data, random.choice((b"\xed\xa0\x80", b"\xff\xfe", b"\xc3")), random),
    lambda data, random: data + data,
    lambda data, random: data + bytes([random.randint(1, 8) << 3 | 2, 0]) * random.choice((1, 300, 40_000)),
    lambda data, _: data,
)


def methods_of_all_services() -> Iterator[tuple[str, MethodDescriptor, type[Message], bool]]:
    """Yields path, descriptor and request type of each method, and whether only the control listener has it.

    Leaves out `Health.List`, which newer releases of `grpcio-health-checking` have and Turnout does not implement.
    """
    for module in (*_DATA, *_CONTROL):
        for service in module.DESCRIPTOR.services_by_name.values():
            name = service.full_name
            if name.endswith("GRPCInferenceService"):
                name = "inference.GRPCInferenceService"
            for method in service.methods:
                if method.full_name == "grpc.health.v1.Health.List":
                    continue
                yield f"/{name}/{method.name}", method, GetMessageClass(method.input_type), module in _CONTROL
                if module is reflection_pb2:  # both versions of the service have the same messages
                    path = f"/grpc.reflection.v1.ServerReflection/{method.name}"
                    yield path, method, GetMessageClass(method.input_type), False


def _valid(path: str, method: MethodDescriptor, random: Random) -> Sequence[bytes]:
    """Returns valid requests of a method. Those that run models are answered."""
    predict = prediction_pb2.PredictRequest(model="f", request_id="r", inputs=[tensors.encode("x", X)], outputs=["y"])
    strings = prediction_pb2.PredictRequest(
        model="s", request_id="r", inputs=[tensors.encode("x", X.astype(str).ravel())]
    )
    if path.endswith("/Predict"):
        return [predict.SerializeToString(), strings.SerializeToString()]
    if path.endswith("/PredictStream"):
        items = [prediction_pb2.PredictStreamRequest(request=one) for one in (predict, strings)]
        return [item.SerializeToString() for item in (*items, prediction_pb2.PredictStreamRequest(cancel="r"))]
    if path.endswith(("/ModelInfer", "/ModelStreamInfer")):
        return [request.SerializeToString() for request in _infer_requests()]
    return [_populated(GetMessageClass(method.input_type), random) for _ in range(4)]


def _infer_requests() -> Iterator[inference_pb2.ModelInferRequest]:
    raw = inference_pb2.ModelInferRequest(model_name="f", id="r", raw_input_contents=[X.tobytes()])
    raw.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    raw.outputs.add(name="y").parameters["classification"].int64_param = 2
    raw.parameters["timeout"].int64_param = 10_000_000
    yield raw
    typed = inference_pb2.ModelInferRequest(model_name="f")
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    yield typed
    stored = inference_pb2.ModelInferRequest(model_name="f")
    for tensor in (stored.inputs.add(name="x", datatype="FP32", shape=[1, 4]), stored.outputs.add(name="y")):
        tensor.parameters["shared_memory_region"].string_param = REGION
        tensor.parameters["shared_memory_byte_size"].int64_param = 16
        tensor.parameters["shared_memory_offset"].int64_param = 16
    yield stored
    strings = inference_pb2.ModelInferRequest(model_name="s")
    strings.inputs.add(name="x", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"a", b"b"])
    yield strings


def _populated(message: type[Message], random: Random) -> bytes:
    return _filled(message(), random, 4).SerializePartialToString()


def _filled(message: Message, random: Random, depth: int) -> Message:
    """Sets some fields of a message to values of their types."""
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.3:
            continue
        try:
            _set(message, field, random, depth)
        except (ValueError, TypeError):  # a number outside the range of the field's type
            continue
    return message


def _set(message: Message, field: FieldDescriptor, random: Random, depth: int) -> None:
    if field.message_type is not None:
        if not depth:
            return
        if field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            if value.message_type is not None:
                _filled(getattr(message, field.name)[random.choice(_TEXTS)], random, depth - 1)
        elif field.is_repeated:
            for _ in range(random.randint(0, 2)):
                _filled(getattr(message, field.name).add(), random, depth - 1)
        else:
            part = getattr(message, field.name)
            part.SetInParent()
            _filled(part, random, depth - 1)
    elif field.is_repeated:
        getattr(message, field.name).extend(_value(field, random) for _ in range(random.randint(0, 3)))
    else:
        setattr(message, field.name, _value(field, random))


def _value(field: FieldDescriptor, random: Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return random.choice(_TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.choice(_TEXTS).encode()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return random.random() < 0.5
    return random.choice(_NUMBERS)


_EXTENSIONS: Sequence[tuple[str, Any]] = (
    ("/v2/repository/index", {"ready": True}),
    ("/v2/repository/models/f@1.0.0/load", {"parameters": {"unload_dependents": True}}),
    ("/v2/logging", {"log_verbose_level": 1, "log_info": True, "log_format": "json", "log_file": ""}),
    ("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "5", "trace_count": None}),
    ("/v2/models/f/trace/setting", {"trace_rate": "7"}),
    ("/v2/systemsharedmemory/region/other/register", {"key": "/turnout", "offset": 0, "byte_size": 64}),
    ("/v2/systemsharedmemory/region/other/unregister", {}),
    ("/v2/cudasharedmemory/region/r/register", {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 64}),
    ("/v2/models/f/stats", {}),
    ("/v2/systemsharedmemory/status", {}),
)
_BOTH = frozenset(path for path, _ in _EXTENSIONS if path.endswith(("logging", "setting", "stats", "status")))
"""Paths that are also, or only, requested with GET."""


def _http(random: Random) -> Request:
    """Returns a request with broken JSON, body, headers or path."""
    predict = {"inputs": {"x": X.tolist()}, "outputs": ["y"]}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X.ravel().tolist()}
    binary = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    infer = {
        "id": "r",
        "inputs": [tensor],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"timeout": 1},
    }
    headers: dict[str, str] = {}
    there = {"shared_memory_region": REGION, "shared_memory_byte_size": 16, "shared_memory_offset": 16}
    stored = {
        "inputs": [{**tensor, "data": None, "parameters": there}],
        "outputs": [{"name": "y", "parameters": there}],
    }
    del stored["inputs"][0]["data"]
    calls = [("/predict/f", predict), ("/v2/models/f/infer", infer), ("/v2/models/f/infer", {"inputs": [binary]})] * 2
    calls += [("/v2/models/f/infer", stored), *_EXTENSIONS]
    path, document = random.choice(calls)
    tail = X.tobytes() if document == {"inputs": [binary]} else b""
    asked = path
    for _ in range(random.randint(0, 3)):
        document = _twisted(document, random, 5)
    text = json.dumps(document, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")
    if tail:
        headers["inference-header-content-length"] = str(len(text))
    body = text + tail
    if random.random() < 0.3:
        body = mutated(body, random)
    if random.random() < 0.1:
        body, headers["content-encoding"] = gzip.compress(body, 1), "gzip"
        body = mutated(body, random) if random.random() < 0.5 else body
    if random.random() < 0.3:
        headers[random.choice(_HEADERS)] = random.choice(_HEADER_VALUES)
    if random.random() < 0.2:
        part = random.choice(("m", "%ff", "%00", "..", "^1", "é", "x" * 2000, "%F0%9F%98%80", "versions/1.0.0/infer"))
        path = (
            random.choice(
                ("/predict/", "/v2/models/", "/v2/", "/v2/repository/models/", "/", "/console/", "/console/models/")
            )
            + part
        )
    method = "GET" if random.random() < (0.5 if asked in _BOTH else 0.1) else "POST"
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: 127.0.0.1", b"content-length: %d" % len(body)]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
    return Request(b"\r\n".join(lines).replace("é".encode("latin-1"), "é".encode()) + b"\r\n\r\n", body)


def _twisted(value: Any, random: Random, depth: int) -> Any:
    """Returns a JSON value in which one part is replaced."""
    if depth and isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return {k: v for k, v in value.items() if k != key} | {
                random.choice(("\ud800", "", "id", "x" * 300)): value[key]
            }
        return value | {key: _twisted(value[key], random, depth - 1)}
    if depth and isinstance(value, list) and value and random.random() < 0.9:
        place = random.randrange(len(value))
        return [*value[:place], _twisted(value[place], random, depth - 1), *value[place + 1 :]]
    return random.choice(_JSON_VALUES)


class Sender:
    """Sends messages to a server."""

    def __init__(
        self, data: str, control: str, http: str, tls: Tls | None = None, tokens: Sequence[str] = ("",)
    ) -> None:
        """Creates a sender for these listeners. Each message uses the next of `tokens`; "" for none."""
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if tls is None:
            self._data, self._control = (grpc.aio.insecure_channel(to, options=options) for to in (data, control))
        else:
            credentials = tls.credentials()
            self._data, self._control = (
                grpc.aio.secure_channel(to, credentials, options=options) for to in (data, control)
            )
        self._context = None if tls is None else tls.context()
        if self._context is not None:
            self._context.set_alpn_protocols(["http/1.1"])
        self._tokens = cycle(tokens)
        self._http = http.rpartition(":")
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.answers: dict[str, int] = {}

    async def close(self) -> None:
        """Closes all connections."""
        await self._data.close()
        await self._control.close()
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    async def send(self, message: Call | Request) -> str:
        """Sends a message. Returns what is wrong with the answer, or "" if nothing is."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                answer, wrong = await (self._call(message) if isinstance(message, Call) else self._post(message))
        except TimeoutError:
            return f"no answer within {_TIMEOUT:g} s to {_shown(message)}"
        self.answers[answer] = self.answers.get(answer, 0) + 1
        return f"{wrong} to {_shown(message)}" if wrong else ""

    async def _call(self, call: Call) -> tuple[str, str]:
        channel = self._control if call.control else self._data
        try:
            await self._answers(channel, call)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            if details == _CLIENTS_OWN and len(call.payloads) > 1:
                return await self._call(replace(call, payloads=call.payloads[:1]))
            if details == _CLIENTS_OWN and self._context is not None and call.streams[0]:
                return "refused while its client wrote", ""
            wrong = f"{code.name}: {details}" if code in _NEVER or "Traceback" in details or "Error:" in details else ""
            return code.name, wrong
        return "OK", ""

    async def _answers(self, channel: grpc.aio.Channel, call: Call) -> None:
        token = next(self._tokens)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        if call.streams == (False, False):
            await channel.unary_unary(call.method)(call.payloads[0], metadata=metadata)
        elif call.streams == (True, False):
            await channel.stream_unary(call.method)(iter(call.payloads), metadata=metadata)
        elif call.streams == (False, True):
            stream = channel.unary_stream(call.method)(call.payloads[0], metadata=metadata)
            while await stream.read() is not grpc.aio.EOF:
                if call.method.endswith("/Watch"):
                    stream.cancel()
                    return
        else:
            stream = channel.stream_stream(call.method)(iter(call.payloads), metadata=metadata)
            while (answer := await stream.read()) is not grpc.aio.EOF:
                _check_item(call.method, answer)

    async def _post(self, request: Request) -> tuple[str, str]:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self._http[0], int(self._http[2]), ssl=self._context)
        token = next(self._tokens)
        header = f"\r\nAuthorization: Bearer {token}\r\n".encode() if token else b"\r\n"
        try:
            writer.write(request.head.replace(b"\r\n", header, 1) + request.body)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            body = await reader.readexactly(int(fields[b"content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError):  # the server closed: the request was not valid HTTP
            writer.close()
            return "closed", ""
        if fields.get(b"connection") == b"close" or (
            head.startswith((b"HTTP/1.1 400 Bad", b"HTTP/1.0")) and b"json" not in head
        ):
            writer.close()
        else:
            self._idle.append((reader, writer))
        status = head.split(b" ", 2)[1].decode()
        wrong = status == "500" or b"Traceback" in body
        return status, f"{status}: {body[:300]!r}" if wrong else ""


def _check_item(method: str, answer: bytes) -> None:
    """Raises AssertionError if an item of a stream contains an error that must never occur."""
    if method.endswith("/PredictStream"):
        code = prediction_pb2.PredictStreamResponse.FromString(answer).error.code
        assert code not in {status.value[0] for status in _NEVER}, answer


def _shown(message: Call | Request) -> str:
    if isinstance(message, Request):
        return f"{message.head[:300]!r} {message.body[:500]!r}"
    return f"{message.method} {[payload[:500] for payload in message.payloads]!r}"
