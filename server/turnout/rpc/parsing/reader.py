"""Parses messages: small ones on the event loop; large ones in a thread, after checking their limits."""

from typing import Generic, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from turnout.chunks import Serialized
from turnout.errors import MalformedMessage
from turnout.rpc.parsing.wire_scan import check_message, is_light
from turnout.serving.inputs.limits import InputLimits
from turnout.threads import Threads

MessageT = TypeVar("MessageT", bound=Message)

SMALL_BYTES = 64 * 1024
"""Size in bytes up to which a message takes at most 5 ms to parse, regardless of its contents."""

_LIGHT_BYTES = 1024 * 1024
_LIGHT_PIECES = 4096
"""Limits in bytes and pieces up to which a message consists mostly of data to copy; parsing it on the event loop is
faster than starting work in a thread."""

_STRINGS_MARK = b"BYTES"
"""Occurs in every OIP message whose raw contents are strings, where one field contains many pieces."""


class MessageReader(Generic[MessageT]):
    """Parses messages of one type."""

    def __init__(self, message: type[MessageT], limits: InputLimits, thread: Threads) -> None:
        self._message = message
        self._parse = message.FromString
        self._descriptor = cast(Descriptor, message.DESCRIPTOR)
        self._limits = limits
        self._thread = thread

    def heavy(self, data: Serialized) -> bool:
        """Returns whether to parse and decode a message in a thread."""
        if len(data) <= SMALL_BYTES:
            return False
        if not isinstance(data, bytes) or len(data) > _LIGHT_BYTES:
            return True
        return _STRINGS_MARK in data or not is_light(data, self._descriptor, _LIGHT_PIECES)

    def parse(self, data: Serialized) -> MessageT:
        """Parses a message, after checking its limits if it is large.

        Raises:
            MalformedMessage: The bytes cannot be parsed as a message of this type.
            InvalidTensor: The message has too many fields, elements or strings.
        """
        data = bytes(data)
        if len(data) > SMALL_BYTES:
            check_message(data, self._descriptor, self._limits)
        try:
            return self._parse(data)
        except DecodeError:
            name = self._message.DESCRIPTOR.name
            raise MalformedMessage(f"the message is not a {name}: its bytes cannot be parsed") from None

    async def read(self, data: Serialized) -> MessageT:
        """Parses a message, in a thread if parsing may take long. Raises the same errors as `parse`."""
        return await self._thread.run(self.parse, data) if self.heavy(data) else self.parse(data)
