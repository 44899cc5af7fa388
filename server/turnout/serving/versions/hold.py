"""What keeps a version from being unloaded or withdrawn, and the command that ends that. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """One holder of a version.

    Attributes:
        what: Who holds it and as what, a clause about "it".
        advice: What to do first: commands that work as things stand.
    """

    what: str
    advice: str

    @property
    def sentence(self) -> str:
        """Both, as half a sentence."""
        return f"{self.what}; {self.advice}"
