"""Bounds the histories of all versions in service."""

from turnout.serving.versions.catalog import Catalog


def fold_histories(catalog: Catalog, now: float) -> None:
    """Folds newly logged requests into the history of each version. Called once per tick.

    Args:
        catalog: Catalog of the served versions.
        now: `time.monotonic()`.
    """
    for model in catalog.snapshot.models.values():
        for entry in model.versions.values():
            if entry.handle is not None:
                entry.handle.history.fold(now)
