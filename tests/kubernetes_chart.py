"""The chart in deploy/kubernetes, rendered by its own `render.py`."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

KUBERNETES = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes"
CHART = KUBERNETES / "turnout"
Document = dict[str, Any]


@functools.cache
def render_module() -> ModuleType:
    """Returns `deploy/kubernetes/render.py`, which lies in no package."""
    spec = importlib.util.spec_from_file_location("turnout_kubernetes_render", KUBERNETES / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rendered(values: Document | None = None, name: str = "turnout") -> list[Document]:
    """Returns all that the chart renders."""
    texts = render_module().documents(yaml.safe_dump(values or {}), name=name)
    return [document for text in texts.values() for document in yaml.safe_load_all(text)]


def only(documents: list[Document], kind: str) -> Document:
    """Returns the one document of a kind."""
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def replicas(**more: Any) -> Document:
    """Returns the values of several servers, with everything on."""
    values: Document = yaml.safe_load((KUBERNETES / "values" / "replicas.yaml").read_text())
    return values | more
