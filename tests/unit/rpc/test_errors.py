"""What errors say of names that do not exist."""

import pytest

from turnout.errors import ModelNotFound, TagNotFound, VersionNotFound

MANY = [f"{letter}-model-{number}" for letter in "abcdefgh" for number in range(1000)]


def test_the_nearest_of_many_names_is_found_among_those_that_begin_alike() -> None:
    assert "nearest: h-model-999" in ModelNotFound.named("h-modl-999", [*MANY[:7000], "h-model-999"]).message


def test_a_name_with_a_version_is_told_where_the_version_goes() -> None:
    message = ModelNotFound.named("fares@1.1.0", ["fares", "magika"]).message
    assert message == (
        "no model is named 'fares@1.1.0': the version goes into an option or field of its own; nearest: fares, ..."
    )


@pytest.mark.parametrize("error", [ModelNotFound.named, lambda n, k: TagNotFound.of("m", n, k)])
def test_a_name_of_megabytes_is_neither_compared_nor_repeated_whole(error) -> None:
    """The comparison takes time with the product of the lengths: it is bounded, and so is what is said."""
    assert len(error("a" * 8_000_000, MANY).message) < 300
    assert len(VersionNotFound.of("m", "1" * 8_000_000, MANY).message) < 500
