"""What the protocol serves beside inference, however it is spoken."""

from dataclasses import dataclass

from turnout.oip.description import ModelDescription
from turnout.oip.extensions.repository import ModelRepository
from turnout.oip.extensions.settings import ServerSettings
from turnout.oip.extensions.shared_memory import SharedMemory
from turnout.oip.extensions.statistics import Statistics


@dataclass(frozen=True, slots=True)
class OipServices:
    """The extensions of one server.

    Attributes:
        description: What the server and its models are, and whether they are ready.
        statistics: What versions did.
        repository: Which versions there are.
        settings: Of the log and of tracing.
        memory: Regions that tensors may lie in.
    """

    description: ModelDescription
    statistics: Statistics
    repository: ModelRepository
    settings: ServerSettings
    memory: SharedMemory

    async def catch_up(self) -> None:
        """Takes over what other workers were told before this one was started."""
        await self.settings.catch_up()
        await self.memory.catch_up()
