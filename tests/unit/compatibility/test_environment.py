"""Ranges of an environment, and what differs from them."""

import pytest

from turnout.registry.manifest.environment import Environment, check_range, differences, holds


@pytest.mark.parametrize(
    ("text", "version", "expected"),
    [
        ("1.31", "1.31.1", True),
        ("1.31", "1.310.0", False),
        ("1.31", "1.3", False),
        ("13", "13.0", True),
        ("13.0", "13", True),
        ("==1.31.1", "1.31.1", True),
        ("==1.31", "1.31.1", False),
        ("==1.31", "1.31.0", True),
        ("!=1.31.1", "1.31.1", False),
        (">=1.22,<2", "1.22", True),
        (">=1.22,<2", "1.22.0.dev20260101", True),
        (">=1.22, <2", "2.0.0", False),
        (">550.54", "550.54.15", True),
        (">550.54.15", "550.54.15", False),
        ("<=9.10", "9.9.1", True),  # numbers, not text
        ("<=9.10", "9.10.1", False),
        (">=1", "unknown", False),
    ],
)
def test_a_range_holds_by_numbers(text, version, expected) -> None:
    assert holds(text, version) is expected


@pytest.mark.parametrize(
    "text", ["", "^1", "1.x", ">=", "1,", "1.2.3.4.5", ">=1;<2", "1" * 200, ">= 1 2", "\u0661.\u0662"]
)
def test_what_is_no_range_is_refused(text) -> None:
    with pytest.raises(ValueError, match="expected a range"):
        check_range(text)


def test_only_what_is_declared_can_differ() -> None:
    here = Environment(onnxruntime="1.31.1", python="3.12.4")
    assert differences(Environment(), here) == ()
    assert differences(Environment(onnxruntime=">=1.22", python="3.12"), here) == ()
    assert differences(Environment(onnxruntime="<1.31", cuda="13"), here) == (
        "ONNX Runtime <1.31 is declared, 1.31.1 is here",
        "CUDA 13 is declared, none is here",
    )
