"""Reports the progress of a load from the threads that perform it."""

import threading
from collections.abc import Callable

OnStage = Callable[[str], None]
"""Called from any thread when a long stage of a load begins ("building TensorRT engines"), and with "" when it ends."""


def ignore_stage(stage: str) -> None:
    """Does nothing; an `OnStage` for loads whose progress is not shown."""


class LoadProgress:
    """Reports the progress of a load that may be attempted more than once; abandoned attempts report nothing."""

    def __init__(self, on_loaded: Callable[[], None], on_stage: OnStage) -> None:
        self._on_loaded = on_loaded
        self._on_stage = on_stage
        self._changed = threading.Lock()
        self._current = 0
        self._loaded = False

    def begin(self) -> tuple[Callable[[], None], OnStage]:
        """Starts an attempt and abandons the one before. Returns the two callbacks for the new attempt."""
        with self._changed:
            self._current += 1
            number = self._current

        def loaded() -> None:
            with self._changed:
                if number == self._current and not self._loaded:
                    self._loaded = True
                    self._on_loaded()

        def stage(text: str) -> None:
            with self._changed:
                if number == self._current:
                    self._on_stage(text)

        return loaded, stage

    def close(self) -> None:
        """Abandons the current attempt, if there is one."""
        with self._changed:
            self._current += 1
