"""Parses the text of a Triton model's configuration. Pure.

Every release of Triton adds fields, so an unknown field is reported and skipped, not refused. protobuf's own option to
skip unknown fields does not report them, and fails at lists of messages without a colon (`step [ { ... } ]`), the form
in which Triton's documentation writes them.
"""

import re
from collections.abc import Sequence

from google.protobuf import text_format

from turnout.errors import InvalidModel
from turnout_proto.triton.model_config_pb2 import ModelConfig

CONFIG_FILE = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 18
"""Maximum size of a config.pbtxt in bytes. Those of Triton's own examples have a few kilobytes."""

_MAX_PARSED = 1 << 23
"""Maximum number of characters to parse in all: the text is parsed again after each unknown field."""

_UNKNOWN = re.compile(r'^\d+:\d+ : Message type "turnout\.triton\.([\w.]+)" has no field named "([^"]+)"')
_TOKEN = re.compile(r"""(?:\s|\#[^\n]*)*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s\#"'\[\]{}<>,;:]+|.)""", re.DOTALL)
_CLOSING = {"[": "]", "{": "}", "<": ">"}
_VISIBLE = re.compile(r"\S")
_MESSAGES = ModelConfig.DESCRIPTOR.file.message_types_by_name


def parse_config(data: bytes) -> tuple[ModelConfig, Sequence[str]]:
    """Parses a config.pbtxt.

    Returns:
        The configuration, and the unknown fields in it, as `NAME (line N)`. The fields of messages that have no
        counterpart as a whole are not among them.

    Raises:
        InvalidModel: The configuration is too large or invalid.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise InvalidModel(f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{CONFIG_FILE} is not UTF-8") from error
    unknown: list[str] = []
    parsed = 0
    while True:
        parsed += len(text)
        if parsed > _MAX_PARSED:
            raise InvalidModel(f"{CONFIG_FILE} has too many unknown fields")
        try:
            return text_format.Parse(text, ModelConfig()), unknown
        except text_format.ParseError as error:
            found = _UNKNOWN.search(str(error))
            if found is None:
                raise InvalidModel(f"{CONFIG_FILE} is not a model configuration: line {str(error)[:200]}") from error
            message, name = found[1], found[2][:64]
            line, column = error.GetLine() or 1, error.GetColumn() or 1
        if message not in _MESSAGES or _MESSAGES[message].fields:
            unknown.append(f"{name} (line {line})")
        try:
            text = _without_field(text, line, column)
        except ValueError:
            raise InvalidModel(f"{CONFIG_FILE} is not a model configuration: line {line}: {name} has no end") from None


def _without_field(text: str, line: int, column: int) -> str:
    """Returns `text` with spaces in place of the field that begins at a line and column, both counted from 1.

    Raises:
        ValueError: The field has no end.
    """
    start = sum(map(len, text.split("\n")[: line - 1])) + line - 1 + column - 1
    end = _end_of_field(text, start)
    return text[:start] + _VISIBLE.sub(" ", text[start:end]) + text[end:]


def _end_of_field(text: str, start: int) -> int:
    """Returns where the field that begins at `start` ends: after its value, and a comma or semicolon behind that.

    Raises:
        ValueError: It has no end.
    """
    closing: list[str] = []
    end, valued, strings = start, False, False
    for token in _TOKEN.finditer(text, start):
        value = token[1]
        if value in _CLOSING:
            if valued and not closing:
                break
            closing.append(_CLOSING[value])
            valued = True
        elif value in "]}>":
            if not closing:
                break
            if value != closing.pop():
                raise ValueError
        elif value in "\"'":
            raise ValueError
        elif not closing and token.start(1) > start and value != ":":
            if value in ",;":
                return token.end()
            if valued and not (strings and value[0] in "\"'"):
                break
            valued, strings = True, value[0] in "\"'"
        end = token.end()
    if closing:
        raise ValueError
    return end
