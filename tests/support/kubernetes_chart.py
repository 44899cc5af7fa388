"""The chart in deploy/kubernetes, rendered by its own `render.py`."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

KUBERNETES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
CHART = KUBERNETES / "turnout"
Document = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as quick in C, where PyYAML was built with it."""


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
    """Returns all that the chart renders; insecure, where the values do not say who may call."""
    values = values or {}
    who = {} if {"auth", "insecure"} & values.keys() else {"insecure": True}
    texts = render_module().documents(yaml.safe_dump(who | values), name=name)
    return [document for text in texts.values() for document in yaml.load_all(text, _LOADER)]


def only(documents: list[Document], kind: str) -> Document:
    """Returns the one document of a kind."""
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def replicas(**more: Any) -> Document:
    """Returns the values of several servers, with everything on."""
    values: Document = yaml.safe_load((KUBERNETES / "values" / "replicas.yaml").read_text())
    return values | more
