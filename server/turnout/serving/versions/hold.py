"""What prevents a version from being unloaded or withdrawn, and the command that ends it. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """A holder of a version.

    Attributes:
        what: Who holds the version and as what, a clause about "it".
        advice: What to do first, as commands that work in the present state.
    """

    what: str
    advice: str

    @property
    def sentence(self) -> str:
        """Both as one clause."""
        return f"{self.what}; {self.advice}"
