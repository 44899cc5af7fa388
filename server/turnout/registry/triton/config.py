"""Parses a config.pbtxt, in protobuf's text format, to the subset of Triton's public messages that Turnout includes."""

import re

from google.protobuf import text_format

from turnout.errors import InvalidModel
from turnout_proto.triton.model_config_pb2 import ModelConfig

CONFIG_FILE = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 18
"""Maximum size of a config.pbtxt in bytes. Those of Triton's own examples have a few kilobytes."""

_UNKNOWN = re.compile(r'^(\d+):\d+ : .*has no field named "([^"]{1,64})"')


def parse_config(data: bytes) -> tuple[ModelConfig, str]:
    """Parses a config.pbtxt.

    Returns:
        The configuration, and the first unknown field in it, as `NAME (line N)`; "" if all fields are known.

    Raises:
        InvalidModel: The configuration is too large or invalid.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise InvalidModel(f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        text = data.decode()
        try:
            return text_format.Parse(text, ModelConfig()), ""
        except text_format.ParseError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None:
                raise
            # Every release of Triton adds fields, so an unknown field is no reason to refuse a model.
            lenient = text_format.Parse(text, ModelConfig(), allow_unknown_field=True)
            return lenient, f"{unknown[2]} (line {unknown[1]})"
    except text_format.ParseError as error:
        raise InvalidModel(f"{CONFIG_FILE} is not a model configuration: line {str(error)[:200]}") from error
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{CONFIG_FILE} is not UTF-8") from error
    except RecursionError as error:
        raise InvalidModel(f"{CONFIG_FILE} is nested too deeply") from error
