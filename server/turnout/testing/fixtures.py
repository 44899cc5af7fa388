"""The pytest fixture. To use it, put `pytest_plugins = ["turnout.testing.fixtures"]` into a conftest.py."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from turnout.testing import Served, serve


@pytest.fixture
def turnout_serve() -> Iterator[Callable[..., Served]]:
    """Returns a function that serves models until the test ends, with the arguments of `turnout.testing.serve`."""
    with ExitStack() as stack:
        yield lambda models, **settings: stack.enter_context(serve(models, **settings))
