"""A placeholder for a listener that runs in another worker of the server."""

from dataclasses import dataclass

from turnout.config import Address


@dataclass(frozen=True, slots=True)
class NullListener:
    """A listener that serves nothing."""

    address: Address

    async def start(self) -> None:
        """Does nothing."""

    async def finish(self, grace: float) -> None:
        """Does nothing."""

    async def stop(self, grace: float) -> None:
        """Does nothing."""
