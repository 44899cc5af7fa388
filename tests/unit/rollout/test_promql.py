"""PromQL with placeholders: whatever is put in is one string, and one number comes out or a reason."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.rollout.analysis.promql import filled, filled_url, number_in

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


def read(literal: str) -> str:
    """Returns what a string literal of PromQL says; it has Go's escapes."""
    if literal[0] == "`":
        return literal[1:-1]
    assert literal[0] == literal[-1]
    assert "\n" not in literal
    escapes = {"n": "\n", "r": "\r", "t": "\t"}
    assert not re.search(rf"(?<!\\)(?:\\\\)*{literal[0]}", literal[1:-1]), "a quote inside ends the string"
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[1]), literal[1:-1], flags=re.DOTALL)


@given(text, st.sampled_from(['"{model}"', "'{model}'", "`{model}`", "{model}"]))
def test_a_value_is_what_the_string_says_whatever_is_in_it(value, written) -> None:
    made = filled(f"x{{model={written}}} > 1", {"model": value})
    assert made.startswith("x{model=")
    assert made.endswith("} > 1")
    assert read(made.removeprefix("x{model=").removesuffix("} > 1")) == value


@given(text, st.sampled_from(['"{model}|z"', "'{model}|z'", "`{model}|z`"]), st.sampled_from(["=~", "!~", "=~  "]))
def test_on_the_right_of_a_regular_expression_it_matches_itself_alone(value, written, operator) -> None:
    made = filled(f"x{{model{operator}{written}}}", {"model": value})
    pattern = read(made.removeprefix(f"x{{model{operator}").removesuffix("}"))
    assert re.fullmatch(pattern, value)
    assert re.fullmatch(pattern, "z")
    for other in (value + "!", "!" + value, value.replace(".", "x")):
        assert other in (value, "z") or not re.fullmatch(pattern, other)


def test_braces_comments_and_other_strings_stay_as_they_are() -> None:
    query = 'sum(rate(x{a="{b}",v=~"a{2}\\\\p{Greek}"}[5m])) # {model} "\n / on() {__name__="y"} + {model}'
    assert filled(query, {"model": "m"}) == query.replace("+ {model}", '+ "m"')


def test_versions_with_build_metadata_are_literals() -> None:
    values = {"model": "m", "candidate": "2.0.0+cpu", "baseline": "1.0.0-rc.1"}
    assert filled('x{v=~"{candidate}|{baseline}",w="{candidate}"}', values) == (
        'x{v=~"2\\\\.0\\\\.0\\\\+cpu|1\\\\.0\\\\.0-rc\\\\.1",w="2.0.0+cpu"}'
    )


@given(text)
def test_in_a_url_a_value_is_one_segment(value) -> None:
    made = filled_url("http://qa/{model}/check?v={model}", {"model": value})
    assert made.count("/") == 4
    assert made.count("?") == made.count("=") == 1
    assert "#" not in made
    assert "&" not in made


def vector(*values: str) -> dict:
    return {
        "status": "success",
        "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, v]} for v in values]},
    }


@pytest.mark.parametrize(
    ("message", "number"), [("0.5", 0.5), ("1e-3", 0.001), ("+Inf", math.inf), ("-Inf", -math.inf)]
)
def test_one_sample_is_a_number(message, number) -> None:
    assert number_in(vector(message)) == number
    assert number_in({"status": "success", "data": {"resultType": "scalar", "result": [1, message]}}) == number


def test_nan_is_what_prometheus_says_it_is() -> None:
    assert math.isnan(number_in(vector("NaN")))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (vector(), "there is no data"),
        (vector("1", "2"), "expected one series, got 2: aggregate them"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "expected one number, got a matrix"),
        (
            {"status": "success", "data": {"resultType": "string", "result": [1, "x"]}},
            "expected one number, got a string",
        ),
        ({"status": "success", "data": {}}, "expected one number, got a malformed result"),
        ({"status": "success", "data": None}, "expected one number, got a malformed result"),
        ({"status": "success"}, "expected one number, got a malformed result"),
        ({"status": "error", "error": "bad"}, "Prometheus refused: bad"),
        ({"status": "error", "error": 3}, "its answer is not in the format of Prometheus"),
        ({}, "its answer is not in the format of Prometheus"),
        ([], "its answer is not in the format of Prometheus"),
        (3, "its answer is not in the format of Prometheus"),
        (vector("1_0"), "expected a sample, got something else"),
        (vector("x"), "expected a sample, got something else"),
        (
            {"status": "success", "data": {"resultType": "vector", "result": [3]}},
            "expected a sample, got something else",
        ),
        ({"status": "success", "data": {"resultType": "scalar", "result": 3}}, "expected a sample, got something else"),
    ],
)
def test_what_is_no_number_is_said(answer, why) -> None:
    with pytest.raises(LookupError) as caught:
        number_in(answer)
    assert caught.value.args[0] == why
