"""Errors of the stores that versions are in, if those are not directories of this machine."""


class StoreFault(OSError):
    """Raised when the store cannot be reached, or refuses a request."""


class StoreBusy(StoreFault):
    """Raised when the same request may well succeed soon: the store is busy, or the connection was lost.

    Attributes:
        retry_after: Seconds for which the store asks to be left alone; 0.0 if it does not say.
    """

    def __init__(self, number: int, text: str, retry_after: float = 0.0) -> None:
        """Creates the error from an error number and a description."""
        super().__init__(number, text)
        self.retry_after = retry_after
