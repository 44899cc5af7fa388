"""The place of a listener that another worker of the server has."""

from dataclasses import dataclass

from turnout.config import Address


@dataclass(frozen=True, slots=True)
class NullListener:
    """Carries nothing.

    Attributes:
        address: Where the other worker listens.
    """

    address: Address

    async def start(self) -> None:
        """Does nothing."""

    async def stop(self, grace: float) -> None:
        """Does nothing."""
