"""The registry service, put together of its parts."""

from dataclasses import dataclass

from turnout.errors import TurnoutError
from turnout.rpc.registry.fetches import FetchMethods
from turnout.rpc.registry.threads import CancellableThreads
from turnout.rpc.registry.uploads import UploadMethods
from turnout.rpc.registry.versions import PublishedVersionMethods


@dataclass(frozen=True, slots=True)
class RegistryServicer:
    """Takes versions in and gives them out.

    Attributes:
        uploads: Takes versions in.
        versions: Tells of them, and keeps signatures beside them.
        fetches: Gives them out.
        threads: Do what touches the disk.
    """

    uploads: UploadMethods
    versions: PublishedVersionMethods
    fetches: FetchMethods
    threads: CancellableThreads

    def stop(self, cause: TurnoutError) -> None:
        """Ends all work that goes on, and refuses what would begin: whoever waits for it is told the cause."""
        self.threads.stop(cause)
