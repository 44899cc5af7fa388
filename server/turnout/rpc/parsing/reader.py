"""Parses messages: small ones on the event loop, large ones in a thread, after checking their limits."""

from typing import Generic, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from turnout.errors import MalformedMessage
from turnout.rpc.parsing.wire_scan import check_message, is_light
from turnout.serving.data_plane.conversion import ConversionThread
from turnout.serving.inputs.limits import InputLimits

MessageT = TypeVar("MessageT", bound=Message)

SMALL_BYTES = 64 * 1024
"""A message of this size takes at most 5 ms to parse, whatever it contains."""

_LIGHT_BYTES = 1024 * 1024
_LIGHT_PIECES = 4096
"""A message of this size and of so few pieces is copied rather than parsed: quicker than a thread would begin."""

_STRINGS_MARK = b"BYTES"
"""Stands in each OIP message whose raw contents are strings, which are many pieces in one."""


class MessageReader(Generic[MessageT]):
    """Parses messages of one type."""

    def __init__(self, message: type[MessageT], limits: InputLimits, thread: ConversionThread) -> None:
        self._message = message
        self._parse = message.FromString
        self._descriptor = cast(Descriptor, message.DESCRIPTOR)
        self._limits = limits
        self._thread = thread

    def heavy(self, data: bytes) -> bool:
        """Tells whether to parse and decode a message in a thread."""
        if len(data) <= SMALL_BYTES:
            return False
        return len(data) > _LIGHT_BYTES or _STRINGS_MARK in data or not is_light(data, self._descriptor, _LIGHT_PIECES)

    def parse(self, data: bytes) -> MessageT:
        """Parses a message; the limits of a large one are checked first.

        Raises:
            Malformed: The bytes are not such a message.
            InvalidTensor: It has too many parts.
        """
        if len(data) > SMALL_BYTES:
            check_message(data, self._descriptor, self._limits)
        try:
            return self._parse(data)
        except DecodeError:
            name = self._message.DESCRIPTOR.full_name
            raise MalformedMessage(f"the message is not a {name}: its bytes cannot be parsed") from None

    async def read(self, data: bytes) -> MessageT:
        """Returns a message, which is parsed in a thread if that takes long. Raises as `parse`."""
        return await self._thread.run(self.parse, data) if self.heavy(data) else self.parse(data)
