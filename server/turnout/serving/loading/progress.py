"""How far a load is, told from the threads that load."""

import threading
from collections.abc import Callable

OnStage = Callable[[str], None]
"""Told, from any thread, what begins in a load and takes long ("building TensorRT engines"); "" once it ended."""


def ignore_stage(stage: str) -> None:
    """Does nothing: an `OnStage` for loads that nobody watches."""


class LoadProgress:
    """Tells how far a load is that may be tried more than once: nothing of a try is told once it was given up."""

    def __init__(self, on_loaded: Callable[[], None], on_stage: OnStage) -> None:
        """Prepares.

        Args:
            on_loaded: Called once, when the version is in memory and warm-up begins.
            on_stage: Told of stages.
        """
        self._on_loaded = on_loaded
        self._on_stage = on_stage
        self._changed = threading.Lock()
        self._current = 0
        self._loaded = False

    def begin(self) -> tuple[Callable[[], None], OnStage]:
        """Begins a try, and gives up the one before; returns what is called by it in place of the two."""
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
        """Gives up the try that goes on, if one does."""
        with self._changed:
            self._current += 1
