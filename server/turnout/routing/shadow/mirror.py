"""Decides which answers are copied to which shadows."""

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from turnout.routing.policy import UNITS
from turnout.routing.shadow.copies import Copy
from turnout.routing.shadow.lane import Lane
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult
from turnout.serving.sessions.tensor import Array, memory_of
from turnout.telemetry.tracing.trace import Trace

_HEAD_BYTES = 64
"""Number of bytes of each input in the hash, and of each string in it: enough to distinguish requests, few enough to
cost almost nothing."""

_HEAD_STRINGS = 4
"""Number of strings of each input in the hash."""


class Mirror:
    """Offers a model's answers to its shadows; implements `turnout.serving.data_plane.inference.AnswerObserver`."""

    def __init__(self, lanes: Sequence[tuple[Lane, int]], epoch: int) -> None:
        """Creates the mirror of an epoch's lanes, each with its share of the answers, 0 to `UNITS`."""
        self._lanes = lanes
        self._epoch = epoch

    def answered(self, request: InferenceRequest, result: InferenceResult, trace: Trace | None) -> None:
        """Queues a copy for each shadow whose share contains the request."""
        material = b""
        copy: Copy | None = None
        for lane, rate in self._lanes:
            if rate < UNITS:
                material = material or material_of(request)
                if position_of(material, lane.pair.shadow) >= rate:
                    continue
            if not lane.has_place():
                continue
            if copy is None:
                copy = _copy(request, result, self._epoch, trace)
            lane.offer(copy)


def position_of(material: bytes, shadow: str) -> int:
    """Returns a request's position, 0 to `UNITS`, for one shadow: equal in all processes, independent of others."""
    digest = hashlib.blake2b(material, digest_size=8, key=shadow.encode()[:64]).digest()
    return int.from_bytes(digest, "little") % UNITS


def material_of(request: InferenceRequest) -> bytes:
    """Returns bytes that distinguish a request from others: its id, and the beginning of its inputs.

    The id alone is not enough, since some clients send the same id with every request. The inputs alone are not enough
    either, since frequent inputs would always or never be copied.
    """
    parts = [request.request_id.encode("utf-8", "surrogatepass")]
    for name, array in request.inputs.items():
        parts.append(name.encode())
        head = array.reshape(-1)[:_HEAD_BYTES]
        if array.dtype == object:
            for text in head[:_HEAD_STRINGS].tolist():
                data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
                parts.append(data[:_HEAD_BYTES])
        else:
            parts.append(head.tobytes()[:_HEAD_BYTES])
    return b"\0".join(parts)


def _copy(request: InferenceRequest, result: InferenceResult, epoch: int, trace: Trace | None) -> Copy:
    expected = [_compact(array) for array in result.answer.outputs]
    nbytes = memory_of(request.inputs.values()) + memory_of(expected)
    return Copy(request.request_id, request.inputs, result.names, expected, epoch, time.monotonic(), nbytes, trace)


def _compact(array: Array) -> Array:
    """Returns `array`, or a copy if it keeps the outputs of a whole batch in memory, which the queue does not count."""
    base = array.base
    return array.copy() if isinstance(base, np.ndarray) and base.nbytes > 2 * array.nbytes else array
