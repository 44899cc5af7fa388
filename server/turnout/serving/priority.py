"""Threads whose work can wait: they have a core when nobody else wants it."""

from turnout.host import lower_priority


def step_back() -> None:
    """Lets every other thread of the machine go before the calling one, which does nothing else from now on."""
    lower_priority()
