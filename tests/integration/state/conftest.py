"""A state store of each kind of database, for the tests of this folder."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from turnout.state.database.engine import Database, Location
from turnout.state.store import StateStore


@pytest.fixture
def store(state_url: str) -> Iterator[StateStore]:
    with StateStore.open(state_url) as opened:
        yield opened


@pytest.fixture
def database(state_url: str, store: StateStore) -> Iterator[Database]:
    """The store's database, for what no method of the store does."""
    with closing(Database(Location.parse(state_url))) as opened:
        yield opened
