"""Shows long stages of a load while they last: in the catalog, in readiness, and in the log."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.serving.versions.availability import Availability
from turnout.serving.versions.inventory import Inventory
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.presence import Key
from turnout.text.quantities import progress_text

_SHOWN_SECONDS = 1.0
_LOGGED_TIMES = 30
"""A stage is logged once in this many updates."""

_UNDER_WAY = (LifecycleState.LOADING, LifecycleState.WARMING)


class LoadStages:
    """The stages in progress. Used on the event loop only."""

    def __init__(self, inventory: Inventory, availability: Availability, log: FilteringBoundLogger) -> None:
        self._inventory = inventory
        self._log = log
        self._shown: dict[Key, str] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        availability.report_loads(self._sentences)

    def begin(self, model: str, version: Version, stage: str) -> None:
        """Shows a stage of a load until it ends; "" ends the present stage."""
        self.end(model, version)
        if stage:
            task = asyncio.create_task(self._show(model, version, stage), name=f"{stage} {model}@{version}")
            self._tasks[model, version] = task

    def end(self, model: str, version: Version) -> None:
        """Ends the stage of a load."""
        if (task := self._tasks.pop((model, version), None)) is not None:
            task.cancel()
        self._shown.pop((model, version), None)

    def close(self) -> None:
        """Ends all stages."""
        for model, version in list(self._tasks):
            self.end(model, version)

    def _sentences(self) -> Sequence[str]:
        return [f"{model} {version}: {what}" for (model, version), what in self._shown.items()]

    async def _show(self, model: str, version: Version, stage: str) -> None:
        loop = asyncio.get_running_loop()
        began, times = loop.time(), 0
        while (entry := self._inventory.versions(model).get(version)) is not None and entry.state in _UNDER_WAY:
            seconds = loop.time() - began
            what = self._shown[model, version] = progress_text(stage, seconds)
            self._inventory.put(replace(entry, reason=what))
            if times % _LOGGED_TIMES == 0:
                self._log.info(stage, model=model, version=str(version), seconds=round(seconds, 1))
            times += 1
            await asyncio.sleep(_SHOWN_SECONDS)
        self._shown.pop((model, version), None)
