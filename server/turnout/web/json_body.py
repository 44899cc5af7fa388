"""Parses the JSON of requests, after checking that it does not have too many parts. Pure."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import pydantic_core

from turnout.errors import InvalidRequest
from turnout.serving.inputs.limits import InputLimits, beyond

SMALL_BYTES = 64 * 1024
"""Size in bytes up to which any JSON is parsed within 5 ms."""

_MAX_LISTS = 256 * 1024
"""Maximum number of lists and objects in JSON. Three bytes of text, `[],`, become a Python object of 100 bytes."""

_LITERALS = b"NaN", b"-Infinity", b"Infinity"
"""What Python, Triton's clients and other writers of JSON put in place of numbers that JSON does not have."""

_SPARE_STRINGS = 8192
"""Number of strings, such as names, that are allowed in addition to those in tensors."""


def json_object(data: bytes, limits: InputLimits, example: str) -> Mapping[str, Any]:
    """Parses `data` as a JSON object.

    The parser holds the GIL until it has finished. So the parts are counted first, which takes one second per gigabyte.
    Errors show `example`, a valid body.

    Raises:
        InvalidRequest: The JSON is too large, has too many parts, or is not an object.
    """
    if len(data) > limits.json_bytes:
        instead = "put tensors into the binary part of a body (/v2) or use gRPC"
        expected = f"expected at most {limits.json_bytes} bytes of JSON, got {len(data)} (limits.http_max_json_bytes)"
        raise InvalidRequest.at("body", f"{expected}; {instead}")
    try:
        if len(data) > SMALL_BYTES:
            _check_pieces(data, limits)
            with _no_collection():
                value = parse_json(data)
        else:
            value = parse_json(data)
    except ValueError as error:
        raise InvalidRequest.at("body", f"expected JSON in UTF-8: {_mistake(data, error)}") from None
    if not isinstance(value, dict):
        raise InvalidRequest.at("body", f"expected an object: {example}")
    return value


def parse_json(data: bytes) -> Any:
    """Parses JSON that may contain the literals NaN and Infinity. Raises ValueError if anything else is not JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        plain = data
        for literal in _LITERALS:
            plain = plain.replace(literal, b"0".ljust(len(literal)))
        if plain == data:
            raise
    orjson.loads(plain)  # because pydantic's parser returns infinity for numbers such as 1e999
    return pydantic_core.from_json(data)


def _mistake(data: bytes, error: ValueError) -> str:
    """Returns what is wrong with JSON, and where."""
    if not isinstance(error, orjson.JSONDecodeError):
        return str(error)
    try:
        text = data.decode()
    except UnicodeDecodeError as wrong:
        return f"this is not UTF-8 at byte {wrong.start}"
    return f"{error.msg} at byte {len(text[: error.pos].encode())}"


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disables the garbage collector, with which Python 3.11 takes 900 ms to create 2.8 M lists, instead of 120 ms."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_pieces(data: bytes, limits: InputLimits) -> None:
    """Raises InvalidRequest if the JSON has too many parts. Brackets and commas inside strings count as well."""
    if data.count(b",") > limits.elements:
        raise beyond("body", limits.elements, "more", "max_elements", "elements in JSON, by its commas")
    if (data.count(b'"') - data.count(b'\\"')) // 2 > limits.strings + _SPARE_STRINGS:
        raise beyond("body", limits.strings, "more", "max_strings", "strings, by its quotation marks")
    if data.count(b"[") + data.count(b"{") > _MAX_LISTS:
        expected = f"expected at most {_MAX_LISTS} lists and objects in JSON, by its brackets, got more"
        raise InvalidRequest.at("body", f"{expected}: a tensor's elements may stand in one list (/v2)")
