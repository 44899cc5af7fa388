"""What the console shows of models, besides what a server under test shows on its pages."""

from types import SimpleNamespace
from typing import Any

from turnout.web.console.views import ModelViews


def test_a_rollout_of_a_model_that_is_gone_has_colours_still() -> None:
    nothing: Any = SimpleNamespace(snapshot=SimpleNamespace(models={}))
    views = ModelViews(nothing, nothing, nothing, nothing)
    assert views.colours("m", "1.1.0", "1.0.0") == {"1.0.0": 0, "1.1.0": 1}
