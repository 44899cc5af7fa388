"""Programs that tests drive and that no wheel brings: Debian's packages, which `tests/setup_debian.sh` installs.

Where one is missing its tests are skipped and say so. Under `CI=true` that is a failure: no check goes away unseen.
"""

import os
import shutil
from typing import NoReturn

import pytest

PACKAGES = {"curl": "curl", "prometheus": "prometheus", "promtool": "prometheus"}
"""Programs that the pages of the docs use besides those that every Debian has, and their packages."""

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def program(package: str, *names: str) -> str | None:
    """Returns the path of the first of `names` that is installed; None where none is.

    Raises:
        RuntimeError: None is, in CI: the module that asks cannot be collected.
    """
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None and IN_CI:
        raise RuntimeError(f"{names[0]} is missing in CI: {_advice(package)}")
    return path


def needs(path: str | None, package: str) -> pytest.MarkDecorator:
    """Returns the mark of tests that cannot run without the program at `path`."""
    return pytest.mark.skipif(path is None, reason=f"not installed: {_advice(package)}")


def missing(what: str, package: str) -> NoReturn:
    """Skips the test that runs for want of `what`; fails it in CI."""
    text = f"{what}: {_advice(package)}"
    if IN_CI:
        pytest.fail(text)
    pytest.skip(text)


def _advice(package: str) -> str:
    return f"apt-get install {package}"
