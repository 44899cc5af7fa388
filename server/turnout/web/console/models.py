"""The models as the console shows them, from the server's present state."""

from collections.abc import Collection, Mapping

from turnout.routing.active_policies import Policies
from turnout.routing.explain import Explainer
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.web.console.recent import Recent
from turnout.web.console.views import ModelView, colours_of, model_view
from turnout.web.report.colours import version_colours


class ModelViews:
    """Looks models up. Used on the event loop only."""

    def __init__(
        self, catalog: Catalog, policies: Policies, explainer: Explainer, recent: Recent, part: str = ""
    ) -> None:
        """Prepares. `part` says which worker's shadows and decisions these are, in a few words; "" if there is one."""
        self.explainer = explainer
        self.recent = recent
        self.part = part
        self._catalog = catalog
        self._policies = policies

    @property
    def all(self) -> Collection[ModelEntry]:
        """Every model."""
        return self._catalog.snapshot.models.values()

    def named(self, name: str) -> ModelEntry:
        """Returns a model.

        Raises:
            ModelNotFound: No model has that name.
        """
        return self._catalog.snapshot.model(name)

    def colours(self, name: str, *more: str) -> Mapping[str, int]:
        """Returns the colours of a model's versions and of `more`; only of `more` if the model is gone."""
        known = self._catalog.snapshot.models.get(name)
        return version_colours((), *more) if known is None else colours_of(known, *more)

    def view(self, known: ModelEntry) -> ModelView:
        """Returns what the console shows of a model."""
        answering = None
        applied = self._policies.current.get(known.name)
        if applied is None or applied.state.policy is None:
            routes = self.explainer.explain(known.name, "", "", baseline_only=False).chances
            answering = next((route.entry.version_text for route in routes), None)
        return model_view(known, self._policies, self.recent.of(known.name), answering)
