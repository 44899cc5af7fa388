"""Documents of policies: the form they are kept in, and which are refused; on both databases."""

import math
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import select

from turnout.errors import InvalidRequest
from turnout.state import policies
from turnout.state.database import schema
from turnout.state.database.engine import Database, Location
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

SET = {"action": "set", "actor": "ada", "reason": "it was time"}


def nested(levels: int) -> dict[str, Any]:
    """A document of that many levels, whose last one is empty."""
    document: dict[str, Any] = {}
    for _ in range(levels - 1):
        document = {"a": document}
    return document


def test_the_document_is_kept_in_canonical_form(state_url: str, store: StateStore) -> None:
    made = store.put_policy("magika", {"weight": 2.0, "baseline": "3.2.0", "ranks": (1, 2)}, expected_epoch=0, **SET)
    with closing(Database(Location.parse(state_url))) as database, database.reading() as connection:
        (text,) = connection.execute(select(schema.policies.c.document)).scalars()
        (payload,) = connection.execute(select(schema.events.c.payload)).scalars()
    assert text == '{"baseline":"3.2.0","ranks":[1,2],"weight":2}'
    assert payload == f'{{"action":"set","document":{text},"epoch":1}}'
    # What is handed back is what will be read, and may be put again.
    assert made == store.policies()["magika"]
    assert store.put_policy("magika", made.document, expected_epoch=1, **SET).document == made.document


def test_a_document_changed_afterwards_changes_nothing_kept(store: StateStore) -> None:
    document: dict[str, Any] = {"canaries": []}
    made = store.put_policy("magika", document, expected_epoch=0, **SET)
    document["canaries"].append("3.3.0")
    assert made.document == store.policies()["magika"].document == {"canaries": []}


@pytest.mark.parametrize(
    "document",
    [
        {"share": math.nan},
        {"canaries": [{"weight": math.inf}]},
        {"share": -math.inf},
        {"seed": 1 << 53},
        # Written as whole numbers, which could not be written again once read.
        {"seed": 1e20},
        {"seed": float(1 << 53)},
        {"salt": "\udcff"},
        {"\udcff": 1},
        {1: "a key that is not text"},
        {"versions": {"3.2.0"}},
        {"salt": b"bytes"},
    ],
)
def test_what_json_cannot_hold_is_refused(store: StateStore, document: dict[Any, Any]) -> None:
    with pytest.raises(InvalidRequest, match="document: expected JSON values") as caught:
        store.put_policy("magika", document, expected_epoch=0, **SET)
    assert [violation.field for violation in caught.value.violations] == ["document"]
    assert store.revision() == 0


def test_a_document_of_the_most_bytes_is_kept_and_one_byte_more_refused(store: StateStore) -> None:
    # {"a":"..."} has eight characters besides; é is two bytes.
    most = {"a": "é" * ((policies.DOCUMENT_SIZE - 8) // 2)}
    store.put_policy("magika", most, expected_epoch=0, **SET)
    assert store.policies()["magika"].document == most
    with pytest.raises(InvalidRequest, match="document: expected at most 262144 bytes of JSON, got 262145"):
        store.put_policy("magika", {"a": most["a"] + "x"}, expected_epoch=1, **SET)
    assert store.revision() == 1


def test_a_document_too_deep_to_be_read_again_is_refused(store: StateStore) -> None:
    store.put_policy("magika", nested(policies.DOCUMENT_DEPTH), expected_epoch=0, **SET)
    endless: list[Any] = []
    endless.append(endless)
    for document in (nested(policies.DOCUMENT_DEPTH + 1), nested(5000), {"a": endless}):
        with pytest.raises(InvalidRequest, match="document: expected at most 32 levels"):
            store.put_policy("magika", document, expected_epoch=1, **SET)
    assert store.revision() == 1
