"""Keeps the histories of all versions in service to their bounds."""

from turnout.serving.versions.catalog import Catalog


def fold_histories(catalog: Catalog, now: float) -> None:
    """Takes in what was logged by slot since the last time; called once a tick.

    Args:
        catalog: What is served.
        now: The monotonic clock's.
    """
    for model in catalog.snapshot.models.values():
        for entry in model.versions.values():
            if entry.handle is not None:
                entry.handle.history.fold(now)
