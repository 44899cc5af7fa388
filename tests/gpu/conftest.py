"""Everything here needs a CUDA device that ONNX Runtime really runs on, and is a run of its own: `pytest tests/gpu`."""

import os

import pytest

from turnout.serving.sessions import providers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `gpu`, with what was found missing, where no session runs on CUDA."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    if missing := _missing():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=missing))


def _missing() -> str:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1":
        return "GPUs are hidden from this run: `pytest tests/gpu` is one that sees them"
    providers.start_runtime()
    report = next(report for report in providers.probe() if report.name == providers.CUDA)
    return "" if report.usable else f"no CUDA device: {report.detail}"
