"""Which share of a model's unpinned traffic each version has, for the metrics."""

from turnout.errors import TurnoutError
from turnout.serving.catalog import Catalog
from turnout.serving.inference import Router


def record_weights(catalog: Catalog, router: Router) -> None:
    """Tells the recorders of the versions in service their share, as wished for and as in force.

    What should answer is the highest released version; what does is the highest that is ready. The two differ while one
    is loading or failed to load.
    """
    for model in catalog.snapshot.models.values():
        shares: dict[object, dict[tuple[str, str], float]] = {}
        for kind, find in (("desired", router.describe), ("applied", lambda m, s: router.route(m, s, "").entry)):
            try:
                shares.setdefault(find(model.name, "").version, {})["baseline", kind] = 1.0
            except TurnoutError:  # nothing is released, or nothing that is answers now
                continue
        for version, entry in model.versions.items():
            if entry.handle is not None:
                entry.handle.recorder.traffic_weight = shares.get(version, {})
