"""Who answers plain requests, `latest` and ranges, as every command says it; and that it is what the router does."""

import pytest
from semver import Version

from turnout.routing.default_answers import answers_of, answers_text, standing_in
from turnout.routing.policy import Canary, Policy
from turnout.state.release_status import ReleaseStatus

S = ReleaseStatus


def _v(text: str) -> Version:
    return Version.parse(text)


def _statuses(*released: str) -> dict[Version, ReleaseStatus]:
    return {_v(text): S.RELEASED for text in released}


@pytest.mark.parametrize(
    ("policy", "released", "expected"),
    [
        (None, (), "plain requests: no version; latest: no version"),
        (None, ("1.2.0",), "plain requests: 1.2.0; latest: 1.2.0; ^1: 1.2.0"),
        (None, ("1.2.0", "2.0.0-rc.1"), "plain requests: 1.2.0; latest: 1.2.0; ^1: 1.2.0"),
        (
            Policy(_v("1.2.0"), (Canary(_v("1.3.0"), 500),)),
            ("1.2.0",),
            "plain requests: 1.2.0 (95%), 1.3.0 (5%, canary of rollout 3); latest: 1.2.0; "
            "^1: 1.2.0 (95%), 1.3.0 (5%, canary of rollout 3)",
        ),
        (
            Policy(_v("1.2.0"), (Canary(_v("2.0.0"), 1250),)),
            ("1.2.0", "1.9.0"),
            "plain requests: 1.2.0 (87.5%), 2.0.0 (12.5%, canary); latest: 1.9.0; ^1: 1.2.0",
        ),
        (Policy(_v("1.2.0"), (Canary(_v("1.3.0"), 0),)), ("1.2.0",), "plain requests: 1.2.0; latest: 1.2.0; ^1: 1.2.0"),
        (
            Policy(_v("1.0.0"), (Canary(_v("1.1.0"), 10_000),)),
            ("1.0.0",),
            "plain requests: 1.1.0 (100%, canary); latest: 1.0.0; ^1: 1.1.0 (100%, canary)",
        ),
        (
            Policy(_v("0.2.1")),
            ("0.2.1", "0.3.0", "0.0.7", "1.0.0", "2.0.0", "0.0.0"),
            "plain requests: 0.2.1; latest: 2.0.0; ^2: 2.0.0; ^1: 1.0.0; ^0.3: 0.3.0; ^0.2: 0.2.1; and 2 more ranges",
        ),
    ],
)
def test_the_line_that_commands_print(policy, released, expected) -> None:
    assert answers_text(answers_of(policy, _statuses(*released), {_v("1.3.0"): 3})) == expected


def test_what_a_server_has_not_loaded_is_told_with_what_answers_instead() -> None:
    statuses = _statuses("1.0.0", "1.1.0", "2.0.0", "3.0.0")
    states = {_v("3.0.0"): "loading", _v("1.1.0"): "not loaded", _v("1.0.0"): "ready", _v("2.0.0"): "ready"}
    ready = {v: s for v, s in statuses.items() if states[v] == "ready"}
    assert standing_in(answers_of(None, statuses), answers_of(None, ready), states) == (
        "3.0.0 is loading here, so plain requests and latest get 2.0.0",
        "3.0.0 is loading here, so ^3 gets no version",
        "1.1.0 is not loaded here, so ^1 gets 1.0.0",
    )
    policy = Policy(_v("2.0.0"), (Canary(_v("2.1.0"), 500),))
    assert standing_in(answers_of(policy, statuses), answers_of(policy, ready), states)[0] == (
        "3.0.0 is loading here, so latest gets 2.0.0"
    )
    assert standing_in(answers_of(policy, ready), answers_of(policy, ready), states) == ()
