"""The models for the console's pages, from the server's current state."""

from collections.abc import Collection, Mapping

from turnout.routing.active_policies import Policies
from turnout.routing.explain import Explainer
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.web.console.recent import Recent
from turnout.web.console.views import ModelView, colours_of, model_view
from turnout.web.report.colours import version_colours


class ModelViews:
    """Provides views of the models. Used on the event loop only."""

    def __init__(
        self, catalog: Catalog, policies: Policies, explainer: Explainer, recent: Recent, part: str = ""
    ) -> None:
        """Creates the views.

        Args:
            catalog: The catalog of versions.
            policies: The active routing policies.
            explainer: Explains routes.
            recent: The metrics of the last hour.
            part: Description of the worker whose shadows and decisions are shown; "" if there is only one.
        """
        self.explainer = explainer
        self.recent = recent
        self.part = part
        self._catalog = catalog
        self._policies = policies

    @property
    def all(self) -> Collection[ModelEntry]:
        """All models."""
        return self._catalog.snapshot.models.values()

    def named(self, name: str) -> ModelEntry:
        """Returns the model `name`.

        Raises:
            ModelNotFound: The model does not exist.
        """
        return self._catalog.snapshot.model(name)

    def colours(self, name: str, *more: str) -> Mapping[str, int]:
        """Returns the colours of a model's versions and of `more`; only of `more` if the model no longer exists."""
        known = self._catalog.snapshot.models.get(name)
        return version_colours((), *more) if known is None else colours_of(known, *more)

    def view(self, known: ModelEntry) -> ModelView:
        """Returns the view of a model."""
        answering = None
        applied = self._policies.current.get(known.name)
        if applied is None or applied.state.policy is None:
            routes = self.explainer.explain(known.name, "", "", baseline_only=False).chances
            answering = next((route.entry.version_text for route in routes), None)
        return model_view(known, self._policies, self.recent.of(known.name), answering)
