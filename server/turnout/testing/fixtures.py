"""The fixture of pytest: `pytest_plugins = ["turnout.testing.fixtures"]` in a conftest.py."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from turnout.testing import Served, serve


@pytest.fixture
def turnout_serve() -> Iterator[Callable[..., Served]]:
    """Returns what serves models until the test ends; arguments as of `turnout.testing.serve`."""
    with ExitStack() as stack:
        yield lambda models, **settings: stack.enter_context(serve(models, **settings))
