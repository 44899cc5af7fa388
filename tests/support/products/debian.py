"""Programs that tests use and that are not in wheels: Debian packages, installed by `tests/setup_debian.sh`.

If one is missing, its tests are skipped with a reason. With `CI=true` they fail instead, so that no check disappears
unnoticed.
"""

import os
import shutil
from typing import NoReturn

import pytest

PACKAGES = {"curl": "curl", "prometheus": "prometheus", "promtool": "prometheus"}
"""Programs used by the pages of the docs that are not in every Debian installation, and their packages."""

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def program(package: str, *names: str) -> str | None:
    """Returns the path of the first of `names` that is installed; None if none is.

    Raises:
        RuntimeError: None is installed, in CI. The calling test module then cannot be collected.
    """
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None and IN_CI:
        raise RuntimeError(f"{names[0]} is missing in CI: {_advice(package)}")
    return path


def needs(path: str | None, package: str) -> pytest.MarkDecorator:
    """Returns a mark that skips tests if the program at `path` is missing."""
    return pytest.mark.skipif(path is None, reason=f"not installed: {_advice(package)}")


def missing(what: str, package: str) -> NoReturn:
    """Skips the running test because `what` is missing; fails it in CI."""
    text = f"{what}: {_advice(package)}"
    if IN_CI:
        pytest.fail(text)
    pytest.skip(text)


def _advice(package: str) -> str:
    return f"apt-get install {package}"
