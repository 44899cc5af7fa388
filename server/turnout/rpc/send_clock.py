"""Estimates how long an item of a stream was on its way, without a common clock. Pure.

A client says of each item when it wrote it, by its own clock. The offset between that and when the server reads the
item is the difference of the two clocks, which is the same for all items, and the time on the way, which is not: of the
quickest of the latest items it is taken to be none.
"""

import math
from dataclasses import dataclass

_WINDOW_SECONDS = 60.0
"""Clocks drift apart by some 50 microseconds a second; an offset is believed for one to two windows."""


@dataclass(slots=True)
class SendClock:
    """The clock of one stream's client, estimated from its items.

    Attributes:
        _least: The least offset of this window.
        _before: That of the window before.
        _ends: When this window ends, by the server's clock.
    """

    _least: float = math.inf
    _before: float = math.inf
    _ends: float = -math.inf

    def waited(self, sent: float, read: float) -> float:
        """Returns how many seconds longer an item was on its way than the quickest of late.

        Args:
            sent: When the client wrote it, seconds of its clock.
            read: When the server read it, seconds of its own.
        """
        if read >= self._ends:
            self._before = self._least if read < self._ends + _WINDOW_SECONDS else math.inf
            self._least, self._ends = math.inf, read + _WINDOW_SECONDS
        offset = read - sent
        self._least = min(self._least, offset)
        return offset - min(self._least, self._before)
