"""How messages come in: small ones are parsed on the event loop, large ones in a thread, after a check of bounds."""

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


class Malformed(InvalidRequest):
    """Bytes that are no message of the type expected."""


class MessageReader(Generic[MessageT]):
    """Parses messages of one type."""

    def __init__(self, message: type[MessageT], limits: InputLimits, thread: ConversionThread) -> None:
        self._message = message
        self._parse = message.FromString
        self._descriptor = cast(Descriptor, message.DESCRIPTOR)
        self._limits = limits
        self._thread = thread

    def parse_small(self, data: bytes) -> MessageT | None:
        """Returns the message if it is small; None if `read` is the way.

        Raises:
            Malformed: The bytes are no such message.
        """
        if len(data) > SMALL_BYTES:
            return None
        try:
            return self._parse(data)
        except DecodeError:
            raise self._malformed() from None

    async def read(self, data: bytes) -> tuple[MessageT, bool]:
        """Returns the message, and whether what it holds is to be decoded in a thread too.

        Raises:
            Malformed: The bytes are no such message.
            InvalidTensor: It is made of more than it may be.
        """
        if (message := self.parse_small(data)) is not None:
            return message, False
        if len(data) <= _LIGHT_BYTES and is_light(data, self._descriptor, _LIGHT_PIECES):
            return self._parsed(data), _STRINGS_MARK in data
        return await self._thread.run(self._checked, data), True

    def _checked(self, data: bytes) -> MessageT:
        check_message(data, self._descriptor, self._limits)
        return self._parsed(data)

    def _parsed(self, data: bytes) -> MessageT:
        try:
            return self._parse(data)
        except DecodeError:
            raise self._malformed() from None

    def _malformed(self) -> Malformed:
        name = self._message.DESCRIPTOR.full_name
        return Malformed(f"the message is no {name}: its bytes cannot be parsed")
