"""Malicious messages: far beyond the limits of the default settings, and just within them."""

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from turnout.wire_format import delimited, varint
from turnout_proto.oip import inference_pb2 as oip
from turnout_proto.v1 import prediction_pb2 as pb

MIB = 1 << 20

PREDICT = "/turnout.v1.PredictionService/Predict"
PREDICT_STREAM = "/turnout.v1.PredictionService/PredictStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"

ELEMENTS = 2 * MIB
STRINGS = MIB // 2


@dataclass(frozen=True, slots=True)
class Hostile:
    """A malicious message.

    Attributes:
        name: Description of the message.
        target: Full name of a gRPC method, or path of a URL.
        body: The message or HTTP body.
        headers: HTTP headers.
        within: Whether the message is within the default limits.
    """

    name: str
    target: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    within: bool = True


def issue() -> Iterator[Hostile]:
    """Yields the messages that stalled release 0.1."""
    ones = b'{"inputs":{"x":[' + b"1," * (31 * MIB) + b"1]}}"
    yield Hostile("gzip of 62 MiB JSON, /predict", "/predict/f", gzip.compress(ones, 9), _GZIP, within=False)
    yield Hostile("17 MiB JSON, /predict", "/predict/f", ones[: 17 * MIB] + b"1]}}", within=False)
    yield Hostile("33 M empty output names", INFER, delimited(1, b"f") + b"\x32\x00" * (32 * MIB - 64), within=False)
    yield Hostile(
        "33 M empty output names, v1", PREDICT, delimited(1, b"f") + b"\x32\x00" * (32 * MIB - 64), within=False
    )
    strings = delimited(1, b"x") + delimited(2, b"BYTES") + delimited(5, b"\x42\x00" * 30_000_000)
    yield Hostile("30 M empty strings", INFER, delimited(1, b"s") + delimited(5, strings), within=False)
    shape = delimited(1, b"x") + delimited(2, b"FP32") + delimited(3, b"\x01" * 60_000_000)
    yield Hostile("60 M dimensions", INFER, delimited(1, b"f") + delimited(5, shape), within=False)


def worst() -> Iterator[Hostile]:
    """Yields messages that come close to the limits, each in a different way."""
    yield from _json()
    yield from _typed()
    yield from _strings()
    yield from _raw()
    yield from _other_services()


def _json() -> Iterator[Hostile]:
    zeros = b"[" + b"0," * (ELEMENTS - 32) + b"0]"
    floats = b"[" + b"-1.2345678," * (16 * MIB // 11 - 64) + b"0]"
    texts = '["' + '","'.join(["é"] * (STRINGS - 32)) + '"]'
    pairs = b"[" + b"[0,0,0,0]," * (256 * 1024 - 64) + b"[0,0,0,0]]"
    for name, data in (("2 M numbers", zeros), ("16 MiB of floats", floats)):
        yield Hostile(f"JSON of {name}, /predict", "/predict/f", b'{"inputs":{"x":' + data + b"}}")
        yield Hostile(f"gzip, {name}, /predict", "/predict/f", gzip.compress(b'{"inputs":{"x":' + data + b"}}"), _GZIP)
        size = data.count(b",") + 1
        head = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%d],"data":' % size
        yield Hostile(f"JSON of {name}, /v2", "/v2/models/f/infer", head + data + b"}]}")
    yield Hostile("JSON of 512 K strings, /predict", "/predict/s", b'{"inputs":{"x":' + texts.encode() + b"}}")
    yield Hostile("JSON of 256 K lists, /predict", "/predict/m", b'{"inputs":{"x":' + pairs + b"}}")
    yield Hostile(
        "JSON nested 1,000 deep, 8 MiB", "/predict/f", b"[" + (b"[" * 1000 + b"]" * 1000 + b",") * 120 + b"1]"
    )


def _typed() -> Iterator[Hostile]:
    for model, datatype, field, data in (
        ("i", "INT64", 3, b"\x01" * ELEMENTS),
        ("i", "INT64", 3, b"\xff" * 9 + b"\x01" + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" * (ELEMENTS - 1)),
        ("f", "FP32", 6, np.ones(15 * MIB, np.float32).tobytes()),
    ):
        count = 15 * MIB if datatype == "FP32" else ELEMENTS
        tensor = delimited(1, b"x") + delimited(2, datatype.encode()) + delimited(3, varint(count))
        message = delimited(1, model.encode()) + delimited(5, tensor + delimited(5, delimited(field, data)))
        yield Hostile(f"{datatype} contents of {len(data) // MIB} MiB", INFER, message)
    unpacked = delimited(1, b"x") + delimited(2, b"INT64") + delimited(3, varint(ELEMENTS))
    unpacked += delimited(5, b"\x18\x01" * ELEMENTS)
    yield Hostile("2 M numbers, each a field", INFER, delimited(1, b"i") + delimited(5, unpacked))


def _strings() -> Iterator[Hostile]:
    count = varint(STRINGS)
    tensor = delimited(1, b"x") + delimited(2, b"BYTES") + delimited(3, count) + delimited(5, b"\x42\x01a" * STRINGS)
    message = delimited(1, b"s") + delimited(5, tensor)
    yield Hostile("512 K strings", INFER, message)
    yield Hostile("512 K strings, stream", STREAM_INFER, message)
    raw = oip.ModelInferRequest(model_name="s")
    raw.inputs.add(name="x", datatype="BYTES", shape=[STRINGS])
    raw.raw_input_contents.append(struct.pack("<I", 1).join([b"", *[b"a"] * STRINGS]))
    yield Hostile("512 K raw strings", INFER, raw.SerializeToString())
    v1 = delimited(1, b"x") + b"\x10" + varint(pb.DATA_TYPE_STRING) + delimited(3, count) + b"\x2a\x01a" * STRINGS
    request = delimited(1, b"s") + delimited(4, b"") + delimited(5, v1)
    yield Hostile("512 K strings, v1", PREDICT, request)
    item = delimited(1, delimited(1, b"s") + delimited(3, b"r") + delimited(5, v1))
    yield Hostile("512 K strings, v1 stream", PREDICT_STREAM, item)


def _raw() -> Iterator[Hostile]:
    size = 63 * MIB
    for datatype, model, data in (
        ("FP32", "f", np.ones(size // 4, np.float32).tobytes()),
        ("BOOL", "b", b"\x01" * size),
    ):
        raw = oip.ModelInferRequest(model_name=model)
        raw.inputs.add(name="x", datatype=datatype, shape=[size // (4 if datatype == "FP32" else 1)])
        raw.raw_input_contents.append(data)
        yield Hostile(f"63 MiB raw {datatype}", INFER, raw.SerializeToString())
    head = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%d],"parameters":{"binary_data_size":%d}}]}'
    head %= (size // 4, size)
    headers = (("inference-header-content-length", str(len(head))),)
    yield Hostile("63 MiB binary, /v2, answered in JSON", "/v2/models/f/infer", head + bytes(size), headers)
    classes = oip.ModelInferRequest(model_name="f")
    classes.inputs.add(name="x", datatype="FP32", shape=[4 * MIB])
    classes.raw_input_contents.append(np.random.default_rng(0).random(4 * MIB, np.float32).tobytes())
    output = classes.outputs.add(name="y")
    output.parameters["classification"].int64_param = 500_000
    yield Hostile("500 K classes of 4 M values", INFER, classes.SerializeToString())


def _other_services() -> Iterator[Hostile]:
    name = b"x" * (60 * MIB)
    yield Hostile("60 MiB model name, v1", PREDICT, delimited(1, name))
    yield Hostile("60 MiB model name, catalog", "/turnout.v1.CatalogService/GetModel", delimited(1, name))
    yield Hostile("60 MiB service name, health", "/grpc.health.v1.Health/Check", delimited(1, b"model:" + name))
    yield Hostile("33 M unknown fields, health", "/grpc.health.v1.Health/Check", b"\x32\x00" * (32 * MIB - 64))
    yield Hostile("33 M broken fields, v1", PREDICT, b"\x32\x00" * (32 * MIB - 64) + b"\xff")


_GZIP = (("content-encoding", "gzip"),)
