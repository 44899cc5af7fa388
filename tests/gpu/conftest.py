"""Everything here needs a CUDA device that ONNX Runtime really runs on."""

import pytest

from turnout.serving import providers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `gpu`, with what was found missing, where no session runs on CUDA."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    providers.start_runtime()
    report = next(report for report in providers.probe() if report.name == providers.CUDA)
    if not report.usable:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"no CUDA device: {report.detail}"))
