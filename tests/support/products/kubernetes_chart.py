"""Renders the chart in deploy/kubernetes, with its own `render.py`."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

KUBERNETES = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes"
CHART = KUBERNETES / "turnout"
Document = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C, if PyYAML was built with it, is ten times as fast."""


@functools.cache
def render_module() -> ModuleType:
    """Imports `deploy/kubernetes/render.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location("turnout_kubernetes_render", KUBERNETES / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rendered(values: Document | None = None, name: str = "turnout") -> list[Document]:
    """Returns all documents that the chart renders. Sets `insecure` unless the values configure authentication."""
    values = values or {}
    who = {} if {"auth", "insecure"} & values.keys() else {"insecure": True}
    texts = render_module().documents(yaml.safe_dump(who | values), name=name)
    return [document for text in texts.values() for document in yaml.load_all(text, _LOADER)]


def only(documents: list[Document], kind: str) -> Document:
    """Returns the only document of a kind."""
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def replicas(**more: Any) -> Document:
    """Returns values for several servers, with everything enabled."""
    values: Document = yaml.safe_load((KUBERNETES / "values" / "replicas.yaml").read_text())
    return values | more
