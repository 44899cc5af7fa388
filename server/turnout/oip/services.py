"""The protocol's services other than inference, which both transports offer."""

from dataclasses import dataclass

from turnout.oip.description import ModelDescription
from turnout.oip.extensions.repository import ModelRepository
from turnout.oip.extensions.settings import ServerSettings
from turnout.oip.extensions.shared_memory import SharedMemory
from turnout.oip.extensions.statistics import Statistics


@dataclass(frozen=True, slots=True)
class OipServices:
    """The protocol's services of a server, other than inference."""

    description: ModelDescription
    statistics: Statistics
    repository: ModelRepository
    settings: ServerSettings
    memory: SharedMemory

    async def catch_up(self) -> None:
        """Copies the settings and regions that clients set or registered before this worker was started."""
        await self.settings.catch_up()
        await self.memory.catch_up()
