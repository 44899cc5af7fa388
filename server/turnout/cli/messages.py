"""Converts a server's messages to JSON values."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def message_body(message: Message, *, null: Collection[str] = (), without: Collection[str] = ()) -> dict[str, Any]:
    """Returns a message as JSON values, keyed by field name.

    Optional fields that are not set are None. Times are RFC 3339 text; enum values are their names in lower case.

    Args:
        message: The message to convert.
        null: Fields, also of nested messages, that are None if they are empty or 0, which means "not known" there.
        without: Fields, also of nested messages, that are left out.
    """

    def value_of(value: Any, enum: Any) -> Any:
        if isinstance(value, Timestamp):
            return value.ToJsonString()
        if isinstance(value, Message):
            return message_body(value, null=null, without=without)
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return [value_of(one, enum) for one in value]
        if enum is None:
            return value
        prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
        return enum.values_by_number[value].name.removeprefix(prefix).lower()

    body = {}
    for field in message.DESCRIPTOR.fields:
        if field.name in without:
            continue
        value = getattr(message, field.name)
        if field.has_presence:
            missing = not message.HasField(field.name)
        else:
            missing = field.name in null and isinstance(value, str | float) and not value
        body[field.name] = None if missing else value_of(value, field.enum_type)
    return body
