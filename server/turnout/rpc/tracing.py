"""Traces of gRPC calls: which span calls, by metadata, and what a call ends with.

A stream has one set of metadata and many requests. Each request is a span of its own, and none spans the stream, which
may live for days: the parent is the span that the item names (PredictStream), else that of the stream's metadata.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import grpc

from turnout.rpc.errors import code_name
from turnout.rpc.transport.port import Call, StatusError
from turnout.telemetry.tracing.context import read
from turnout.telemetry.tracing.trace import Operation, Trace, current
from turnout.telemetry.tracing.tracer import Tracer

OK = grpc.StatusCode.OK.name

FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span an error, by OpenTelemetry's conventions; the others are the caller's doing."""

NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

Behaviour: TypeAlias = Callable[[bytes, Call], Awaitable[bytes]]


def traced(tracer: Tracer | None, service: str, method: str, behaviour: Behaviour) -> Behaviour:
    """Returns the behaviour of a unary method that traces its calls; `behaviour` itself where tracing is off.

    Args:
        tracer: Begins traces; None where tracing is off.
        service: Full name.
        method: Of it.
        behaviour: Answers calls.
    """
    if tracer is None:
        return behaviour
    operation = Operation.rpc(service, method)

    async def call(message: bytes, call: Call) -> bytes:
        trace = tracer.begin(operation, read(call.metadata))
        if trace is None:
            return await behaviour(message, call)
        current.set(trace)  # the task is this call's own
        try:
            response = await behaviour(message, call)
        except BaseException as error:
            _end_failed(trace, error)
            raise
        end(trace)
        return response

    return call


@contextmanager
def cancelled_with(trace: Trace) -> Iterator[None]:
    """Ends the trace of a request that is cancelled in this context."""
    try:
        yield
    except asyncio.CancelledError:
        end(trace, "CANCELLED")
        raise


def end(trace: Trace, code: str = OK, message: str = "") -> None:
    """Ends the trace of a request that was answered with `code`."""
    trace.end(code, fault=code in FAULTS, message=message)


def _end_failed(trace: Trace, error: BaseException) -> None:
    """Ends the trace of a call whose behaviour raised."""
    if isinstance(error, StatusError):
        end(trace, NAMES.get(error.status.code, "UNKNOWN"), error.status.message)
    elif trace.code:
        end(trace, trace.code)
    elif isinstance(error, Exception):
        end(trace, code_name(error), type(error).__name__)
    else:
        end(trace, code_name(error))
