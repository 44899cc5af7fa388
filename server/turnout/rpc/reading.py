"""How messages come in: small ones are parsed where gRPC hands them over, large ones in a thread, after their bounds
were checked.

gRPC deserialises on the event loop, and answers bytes that are no message with UNKNOWN and a traceback in the log. So
the deserialiser here never raises, and leaves what may take long, or is no message, to the handler.
"""

from collections.abc import Callable
from typing import Generic, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from turnout.errors import InvalidRequest
from turnout.rpc.wire_scan import check_message, is_light
from turnout.serving.conversion import ConversionThread
from turnout.serving.limits import InputLimits

MessageT = TypeVar("MessageT", bound=Message)

SMALL_BYTES = 64 * 1024
"""A message of this size takes 5 ms whatever it holds."""

_LIGHT_BYTES = 1024 * 1024
_LIGHT_PIECES = 4096
"""A message of this size and of so few pieces is copied rather than parsed: quicker than a thread would begin."""

_STRINGS_MARK = b"BYTES"
"""Stands in each OIP message whose raw contents are strings, which are many pieces in one."""


class Unparsed:
    """Stands in for a message that is large, or whose bytes are no message."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Malformed(InvalidRequest):
    """Bytes that are no message of the type expected."""


def deserialiser(message: type[MessageT]) -> Callable[[bytes], MessageT | Unparsed]:
    """Returns a deserialiser that leaves what may take long, and what cannot be parsed, to a MessageReader."""
    parse = message.FromString

    def deserialise(data: bytes) -> MessageT | Unparsed:
        if len(data) > SMALL_BYTES:
            return Unparsed(data)
        try:
            return parse(data)
        except DecodeError:
            return Unparsed(data)

    return deserialise


class MessageReader(Generic[MessageT]):
    """Parses what the deserialiser of one type of message left."""

    def __init__(self, message: type[MessageT], limits: InputLimits, thread: ConversionThread) -> None:
        self._message = message
        self._descriptor = cast(Descriptor, message.DESCRIPTOR)
        self._limits = limits
        self._thread = thread

    async def read(self, unparsed: Unparsed) -> tuple[MessageT, bool]:
        """Returns the message, and whether what it holds is to be decoded in a thread too.

        Raises:
            Malformed: The bytes are no such message.
            InvalidTensor: It is made of more than it may be.
        """
        data = unparsed.data
        if len(data) <= SMALL_BYTES:
            return self._parsed(data), False
        if len(data) <= _LIGHT_BYTES and is_light(data, self._descriptor, _LIGHT_PIECES):
            return self._parsed(data), _STRINGS_MARK in data
        return await self._thread.run(self._checked, data), True

    def _checked(self, data: bytes) -> MessageT:
        check_message(data, self._descriptor, self._limits)
        return self._parsed(data)

    def _parsed(self, data: bytes) -> MessageT:
        try:
            return self._message.FromString(data)
        except DecodeError:
            name = self._message.DESCRIPTOR.full_name
            raise Malformed(f"the message is no {name}: its bytes cannot be parsed") from None
