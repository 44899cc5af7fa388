"""Counts every refused call, and logs them at a limited rate, since any client can cause any number of refusals."""

import time

from structlog.typing import FilteringBoundLogger

from turnout.telemetry.metrics.auth import AuthRecorder, RefusalReason

_LINES_PER_SECOND = 5.0
_LINES_AT_ONCE = 50.0


class Refusals:
    """Counts and logs refused calls."""

    def __init__(self, recorder: AuthRecorder, log: FilteringBoundLogger) -> None:
        self._recorder = recorder
        self._log = log
        self._lines = _LINES_AT_ONCE
        self._at = time.monotonic()

    def record(self, refusal: RefusalReason, **details: str) -> None:
        """Counts a refused call and logs it. Beyond the rate limit, the next line logged says how many were left out.

        Details with empty values are left out.
        """
        recorder, now = self._recorder, time.monotonic()
        recorder.refused[str(refusal)] += 1
        self._lines = min(self._lines + (now - self._at) * _LINES_PER_SECOND, _LINES_AT_ONCE)
        self._at = now
        if self._lines < 1.0:
            recorder.unlogged += 1
            return
        self._lines -= 1.0
        left_out, recorder.unlogged = recorder.unlogged, 0
        more = {"left_out": left_out} if left_out else {}
        self._log.warning(
            "refused", why=str(refusal), **{key: value for key, value in details.items() if value}, **more
        )
