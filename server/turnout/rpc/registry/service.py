"""The registry service, assembled from its parts."""

from dataclasses import dataclass

from turnout.errors import TurnoutError
from turnout.rpc.registry.fetches import FetchMethods
from turnout.rpc.registry.threads import CancellableThreads
from turnout.rpc.registry.uploads import UploadMethods
from turnout.rpc.registry.versions import PublishedVersionMethods


@dataclass(frozen=True, slots=True)
class RegistryServicer:
    """The objects that implement the registry service, and their threads for disk work."""

    uploads: UploadMethods
    fetches: FetchMethods
    versions: PublishedVersionMethods
    threads: CancellableThreads

    def stop(self, cause: TurnoutError) -> None:
        """Cancels running work and rejects new work. Waiting callers get `cause` as their error."""
        self.threads.stop(cause)
