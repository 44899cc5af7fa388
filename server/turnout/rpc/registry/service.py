"""The registry service, assembled from its parts."""

from dataclasses import dataclass

from turnout.errors import TurnoutError
from turnout.rpc.registry.fetches import FetchMethods
from turnout.rpc.registry.threads import CancellableThreads
from turnout.rpc.registry.uploads import UploadMethods
from turnout.rpc.registry.versions import PublishedVersionMethods


@dataclass(frozen=True, slots=True)
class RegistryServicer:
    """Receives and sends versions.

    Attributes:
        uploads: Receives versions.
        versions: Describes them, and keeps their signatures.
        fetches: Sends them.
        threads: Run work on the disk.
    """

    uploads: UploadMethods
    versions: PublishedVersionMethods
    fetches: FetchMethods
    threads: CancellableThreads

    def stop(self, cause: TurnoutError) -> None:
        """Ends running work, and refuses new work: callers that wait get the cause."""
        self.threads.stop(cause)
