"""The index of a policy's patterns, against trying every pattern of every rule."""

from hypothesis import given
from hypothesis import strategies as st

from turnout.auth.identity import ANONYMOUS, Identity
from turnout.auth.policy.pattern_index import PatternIndex
from turnout.auth.roles import Pattern, patterns

NAMES = st.text(alphabet="ab/é", max_size=6) | st.just("anonymous")
TEXTS = st.text(alphabet="ab/é*", max_size=6) | st.sampled_from(["*", "anonymous", "anon*"])
IDENTITIES = st.builds(Identity, NAMES, st.lists(NAMES, max_size=4).map(tuple)) | st.just(ANONYMOUS)
RULES = st.lists(st.lists(TEXTS, min_size=1, max_size=4).map(patterns), max_size=8)


def matches(identity: Identity, pattern: Pattern) -> bool:
    if identity.anonymous:
        return pattern.text == "anonymous"
    return any(pattern.matches(name) for name in (identity.name, *identity.also))


@given(IDENTITIES, RULES)
def test_the_index_finds_the_rules_that_trying_each_pattern_finds(
    identity: Identity, rules: list[tuple[Pattern, ...]]
) -> None:
    expected = [number for number, rule in enumerate(rules) if any(matches(identity, one) for one in rule)]
    assert PatternIndex(rules).matching(identity) == expected
