"""What both transports of the protocol serve besides inference."""

from dataclasses import dataclass

from turnout.oip.description import ModelDescription
from turnout.oip.extensions.repository import ModelRepository
from turnout.oip.extensions.settings import ServerSettings
from turnout.oip.extensions.shared_memory import SharedMemory
from turnout.oip.extensions.statistics import Statistics


@dataclass(frozen=True, slots=True)
class OipServices:
    """The protocol's services of one server, besides inference.

    Attributes:
        description: Describes the server and its models, and tells whether they are ready.
        statistics: Of versions.
        repository: Lists, loads and unloads versions.
        settings: Those of the log and of tracing.
        memory: Regions of shared memory that tensors may be in.
    """

    description: ModelDescription
    statistics: Statistics
    repository: ModelRepository
    settings: ServerSettings
    memory: SharedMemory

    async def catch_up(self) -> None:
        """Copies what other workers were told before this one was started."""
        await self.settings.catch_up()
        await self.memory.catch_up()
