"""Estimates the transit time of stream items without synchronized clocks. Pure.

A client states when it wrote each item, by its own clock. The offset between that time and the time at which the
server reads the item is the sum of two terms: the difference between the two clocks, which is the same for all items,
and the transit time, which varies. The smallest recent offset is taken as the clock difference, which means that the
fastest recent item is assumed to have had a transit time of 0.
"""

import math
from dataclasses import dataclass

_WINDOW_SECONDS = 60.0
"""Length of a window. Clocks drift apart by about 50 microseconds per second, so an offset is used for only one to two
windows."""


@dataclass(slots=True)
class SendClock:
    """An estimate of the clock of a stream's client.

    Attributes:
        _least: Smallest offset in the current window, in seconds.
        _before: Smallest offset in the previous window, in seconds.
        _ends: End of the current window on the server's clock, in seconds.
    """

    _least: float = math.inf
    _before: float = math.inf
    _ends: float = -math.inf

    def waited(self, sent: float, read: float) -> float:
        """Returns how much longer an item was in transit than the fastest recent item, in seconds.

        It was `sent` and `read` at these times, in seconds on the client's and on the server's clock.
        """
        if read >= self._ends:
            self._before = self._least if read < self._ends + _WINDOW_SECONDS else math.inf
            self._least, self._ends = math.inf, read + _WINDOW_SECONDS
        offset = read - sent
        self._least = min(self._least, offset)
        return offset - min(self._least, self._before)
