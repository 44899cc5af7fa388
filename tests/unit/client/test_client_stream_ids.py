"""Request ids on one stream: an answer finds the request that it belongs to, and no other."""

from turnout_client.stream_ids import MAX_ABANDONED, StreamIds


def test_a_free_id_is_the_callers():
    assert StreamIds().claim("mine", {}) == "mine"


def test_an_empty_or_taken_id_is_made_up():
    ids = StreamIds()
    made_up = {ids.claim("", {}), ids.claim("", {}), ids.claim("mine", {"mine"})}
    assert len(made_up) == 3
    assert "mine" not in made_up


def test_made_up_ids_of_two_streams_differ():
    assert StreamIds().claim("", {}) != StreamIds().claim("", {})


def test_a_made_up_id_keeps_clear_of_what_callers_took():
    ids = StreamIds()
    first = ids.claim("", {})
    prefix = first.removesuffix("-1")
    assert ids.claim("", {f"{prefix}-2"}) == f"{prefix}-3"


def test_an_abandoned_id_stays_taken_until_its_answer_comes():
    ids = StreamIds()
    ids.abandon("mine")
    assert ids.claim("mine", {}) != "mine"
    ids.free("mine")
    assert ids.claim("mine", {}) == "mine"


def test_freeing_what_was_not_abandoned_changes_nothing():
    StreamIds().free("whose")


def test_abandoned_ids_are_bounded_and_the_oldest_is_forgotten():
    ids = StreamIds()
    for number in range(MAX_ABANDONED + 1):
        ids.abandon(str(number))
    assert ids.claim("0", {}) == "0"
    assert ids.claim("1", {}) != "1"
