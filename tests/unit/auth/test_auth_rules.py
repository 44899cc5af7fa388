"""The decisions of `turnout.auth`: who may do what, how much of it, and what is wrong with a policy file."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from turnout.auth import actor_remark, identity, roles, sign_in_throttle
from turnout.auth.caller import Caller
from turnout.auth.credentials import tokens
from turnout.auth.identity import Identity, of_certificate
from turnout.auth.policy.parser import read_policy
from turnout.auth.policy.pattern_index import PatternIndex
from turnout.auth.policy.permissions import METHODS, ROUTES, ResourceKind
from turnout.auth.policy.policy import AccessPolicy, Limit, decide
from turnout.auth.policy.quotas import Quota, QuotaExceeded, Quotas
from turnout.auth.roles import SERVER, AccessRole, AccessScope, Pattern, patterns
from turnout.config import Settings, check_exposure
from turnout.errors import ConfigError, InvalidRequest
from turnout.rpc.authorization import protected
from turnout.rpc.transport.port import RpcCall, Unary
from turnout.web.authorization import protect

GRANT = '[[grant]]\nidentities = ["spiffe://a/*"]\nroles = ["publish"]\nmodels = ["fraud-*"]\n'


def scope(role: str, *models: str) -> AccessScope:
    return AccessScope(frozenset({AccessRole(role)}), patterns(models), "here")


# Patterns and roles.


@pytest.mark.parametrize(
    ("text", "name", "matches"),
    [
        ("*", "", True), ("*", "any", True), ("fraud", "fraud", True), ("fraud", "fraud2", False),
        ("fraud-*", "fraud-", True), ("fraud-*", "fraud", False), ("*-eu", "x-eu", True), ("a*b*c", "a1b2c", True),
        ("a*b*c", "a1c", False), ("fraud.x", "fraud-x", False), ("[a-z]", "a", False), ("?", "a", False),
        ("fraud*", "", False), ("fraud*", "Fraud", False), ("x", "x\n", False), ("x*", "x\ny", True),
    ],
)  # fmt: skip
def test_a_pattern_has_stars_and_nothing_else_that_is_special(text: str, name: str, matches: bool) -> None:
    assert Pattern(text).matches(name) is matches


@given(st.text(alphabet="ab*", max_size=8), st.text(alphabet="ab", max_size=8))
def test_a_pattern_matches_what_a_plain_search_says(text: str, name: str) -> None:
    def search(pattern: str, rest: str) -> bool:
        if not pattern:
            return not rest
        if pattern[0] == "*":
            return any(search(pattern[1:], rest[n:]) for n in range(len(rest) + 1))
        return rest[:1] == pattern[0] and search(pattern[1:], rest[1:])

    assert Pattern(text).matches(name) is search(text, name)


def test_a_name_that_nearly_matches_many_stars_is_not_tried_again_and_again() -> None:
    # With backtracking, each star more takes some hundred times as long; this would never end.
    assert not Pattern("jwt:corp/" + "*-" * 40 + "x*y").matches("jwt:corp/" + "-" * 500 + "y")
    assert Pattern("jwt:corp/" + "*-" * 40 + "x*y").matches("jwt:corp/" + "-" * 500 + "xy")


def test_roles_include_what_they_need_and_nothing_of_each_other() -> None:
    held = {role: {needed for needed in AccessRole if scope(role, "*").covers(needed, "m")} for role in AccessRole}
    assert held == {
        AccessRole.PREDICT: {AccessRole.PREDICT},
        AccessRole.READ: {AccessRole.READ},
        AccessRole.PUBLISH: {AccessRole.PUBLISH, AccessRole.READ},
        AccessRole.OPERATE: {AccessRole.OPERATE, AccessRole.READ},
        AccessRole.ADMIN: set(AccessRole),
    }


def test_only_a_star_reaches_the_server_itself() -> None:
    assert decide([scope("admin", "*")], AccessRole.ADMIN, SERVER).allowed
    assert not decide([scope("admin", "fraud", "a*", "*a")], AccessRole.ADMIN, SERVER).allowed


def test_a_refusal_says_what_is_held_and_an_answer_which_rule_gives_it() -> None:
    assert decide([], AccessRole.READ, "m").rule == "no grant names this identity"
    assert decide([scope("read", "m")], AccessRole.OPERATE, "m").rule == "it is granted read on it"
    assert decide([scope("read", "n")], AccessRole.OPERATE, "m").rule == "it is granted nothing on it"
    assert decide([scope("read", "n"), scope("operate", "m")], AccessRole.READ, "m").rule == "here"


# Identities.


def test_a_certificate_names_by_its_first_spiffe_uri_or_its_dns_name() -> None:
    assert of_certificate([], []) is None
    assert of_certificate(["https://x"], []) is None
    found = of_certificate(["https://x", "spiffe://a/b", "spiffe://a/c"], ["Web.Example.org"])
    assert found == Identity("spiffe://a/b", ("spiffe://a/c", "dns:web.example.org"))
    assert of_certificate([], ["B", "a"]) == Identity("dns:b", ("dns:a",))


def test_a_star_is_everybody_who_is_known() -> None:
    def named(who: Identity, *texts: str) -> bool:
        return PatternIndex([patterns(texts)]).matching(who) == [0]

    assert named(Identity("jwt:corp/ann", ("group:corp/ml",)), "group:corp/*")
    assert named(Identity("dns:a"), "*")
    assert not named(identity.ANONYMOUS, "*", "anon*")
    assert named(identity.ANONYMOUS, "anonymous")


def test_few_patterns_are_tried_for_a_caller_however_many_the_policy_has(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [
        f"[[{kind}]]\nidentities = ['jwt:corp/team{n}-*', 'group:corp/g{n}', 'spiffe://x/{n}/*']\n{rest}\n"
        for kind, rest in (("grant", "roles = ['read']\nmodels = ['m']"), ("limit", "in_flight = 1"))
        for n in range(200)
    ]
    policy = read_policy("".join(tables), "p")
    tried: list[str] = []
    matches = Pattern.matches
    monkeypatch.setattr(Pattern, "matches", lambda self, name: tried.append(name) or matches(self, name))
    ann = Identity("jwt:corp/team7-ann", tuple(f"group:corp/g{n}" for n in range(5, 205)))
    assert len(policy.scopes_of(ann)) == 195
    found = policy.limit_of(ann)
    assert found is not None
    assert found.name == "limit-6"
    assert len(tried) <= 4


def test_an_actor_fits_the_log_and_two_that_are_long_stay_two() -> None:
    one, other = (Identity(f"spiffe://example.org/{'é' * 300}{end}").actor for end in "ab")
    assert one != other
    assert all(len(actor.encode()) <= 200 for actor in (one, other))
    assert Identity("token:ci").actor == "token:ci"


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("good", "ann@pc", "good [as ann@pc]"), ("", "ann", "[as ann]"), ("good", "", "good"),
        ("good", "token:ci", "good"), ("x", "a\nb\x1b[1m", "x [as a b [1m]"), ("x" * 1024, "ann", "x" * 1024),
        ("x" * 1015, "ann", "x" * 1015 + " [as ann]"), ("é" * 508, "ann", "é" * 508 + " [as an]"),
        ("y" * 2000, "ann", "y" * 2000),
    ],
)  # fmt: skip
def test_what_a_caller_said_is_a_remark_for_which_there_may_be_no_room(
    reason: str, message: str, expected: str
) -> None:
    assert actor_remark.with_remark(reason, message, "token:ci") == expected


# The policy file.


def test_a_policy_is_read_whole() -> None:
    text = GRANT + '[[limit]]\nname = "b"\nidentities = ["*"]\nrequests_per_second = 10\nin_flight = 3\n'
    policy = read_policy(text, "policy.toml")
    assert policy.scopes_of(Identity("spiffe://a/b")) == (
        AccessScope(frozenset({AccessRole.PUBLISH}), patterns(["fraud-*"]), "grant 1, line 1"),
    )
    assert policy.scopes_of(Identity("spiffe://b/b")) == ()
    assert policy.limit_of(Identity("dns:x")) == Limit("b", patterns(["*"]), 10, 10, 3)
    assert policy.limit_of(identity.ANONYMOUS) is None
    shared = read_policy(text, "policy.toml", share=4).limits[0]
    assert (shared.per_second, shared.burst, shared.in_flight) == (2.5, 2.5, 1)


def test_nothing_is_granted_by_an_empty_file() -> None:
    assert read_policy("# nobody\n", "p") == AccessPolicy()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[grant]", r"p is not valid TOML: .*line 1"),
        ("grant = " + "[" * 20_000, r"p is not valid TOML: expected at most 100 arrays and tables"),
        ("limit = " + "9" * 5_000, r"p is not valid TOML: .*digits"),
        ("grant." + "a." * 2_000 + "b = 1", r"p is not valid TOML: expected at most 100"),
        ("x = 1\n", r"p, line 1: unknown table 'x'; expected grant, limit"),
        (GRANT + "[[grants]]\n", r"p, line 5: unknown table 'grants'; expected grant"),
        (GRANT + "[grants.alice]\n", r"p, line 5: unknown table 'grants'; expected grant"),
        ("grants.alice = 3\n", r"p, line 1: unknown table 'grants'; expected grant"),
        ("'my grants' = 3\n", r"p: unknown table 'my grants'; expected grant"),
        ("[grant]\n", r"p: expected tables \[\[grant\]\], in double brackets"),
        (GRANT + "[[grant]]\n", r"p, line 5: grant 2, identities: missing; expected patterns that begin"),
        (GRANT + "model = ['x']\n", r"p, line 5: grant 1, model: unknown key; expected models"),
        (GRANT.replace("publish", "write"), r"p, line 3: grant 1, roles: expected some of predict.*, got 'write'"),
        (GRANT.replace("fraud-*", "fraud x"), r"p, line 4: grant 1, models: .*, got 'fraud x'"),
        (GRANT.replace("spiffe://a/*", "ann"), r"p, line 2: grant 1, identities: .*, got 'ann'"),
        (GRANT.replace("spiffe://a/*", "spiffe://"), r"line 2: grant 1, identities: .*, got 'spiffe://'"),
        (GRANT.replace("spiffe://a/*", "token:ci"), r"line 2: .*a token brings its own roles"),
        (GRANT.replace('["publish"]', '"publish"'), r"line 3: grant 1, roles: expected a list"),
        (GRANT.replace('["publish"]', "[]"), r"line 3: grant 1, roles: expected a list of 1 to"),
        ("[[limit]]\nidentities = ['*']\n", r"line 1: limit 1, requests_per_second: .*bounds nothing"),
        ("[[limit]]\nidentities = ['*']\nrequests_per_second = 5e-324\n", r"line 3: limit 1, .* at least 0.000001,"),
        ("[[limit]]\nidentities = ['*']\nrequests_per_second = 1e-7\n", r"line 3: limit 1, .* at least 0.000001, got"),
        ("[[limit]]\nidentities = ['*']\nrequests_per_second = nan\n", r"line 3: limit 1, .*, got 'nan'"),
        ("[[limit]]\nidentities = ['*']\nin_flight = -1\n", r"line 3: limit 1, in_flight: expected a whole number"),
        ("[[limit]]\nidentities = ['*']\nin_flight = true\n", r"line 3: limit 1, in_flight: .*got 'True'"),
        ("[[limit]]\nidentities = ['*']\nin_flight = 1\nburst = 2\n", r"line 4: limit 1, burst: expected requests_"),
        ("[[limit]]\nidentities = ['*']\nin_flight = 1\nname = 'A b'\n", r"line 4: limit 1, name: .*got 'A b'"),
        ("[[limit]]\nidentities=['*']\nin_flight=1\nname='a'\n" * 2, r"line 8: limit 2, name: another limit is"),
    ],
)  # fmt: skip
def test_each_fault_of_a_policy_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_policy(text, "p")


@given(st.text(max_size=200) | st.text(alphabet='[]grantlimit="\n *', max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    with suppress(ConfigError):
        assert read_policy(text, "p").scopes_of(identity.ANONYMOUS) == ()


# How much.


def test_a_bucket_fills_at_its_rate_up_to_its_burst() -> None:
    quota = Quota(Limit("l", (), 2.0, 3.0, 0), 100.0)
    assert [quota.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert quota.take(100.4) == pytest.approx(0.1)
    assert quota.take(100.5) == 0
    assert [quota.take(1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_what_is_under_way_is_counted_off() -> None:
    quota = Quota(Limit("l", (), 0, 1.0, 2), 0.0)
    quota.enter(0.0)
    quota.enter(0.0)
    with pytest.raises(QuotaExceeded, match="2 requests at once") as caught:
        quota.enter(0.0)
    assert (caught.value.limit, caught.value.bound, caught.value.retry_after) == ("l", "in_flight", 0.1)
    quota.leave()
    quota.enter(0.0)


def test_a_refusal_by_the_quota_takes_nothing_of_the_rate() -> None:
    quota = Quota(Limit("l", (), 0.001, 2.0, 1), 0.0)
    quota.enter(0.0)
    for _ in range(10):
        with pytest.raises(QuotaExceeded):
            quota.enter(0.0)
    quota.leave()
    quota.enter(0.0)


def test_buckets_are_bounded_and_those_in_use_stay() -> None:
    quotas, limit = Quotas(most=3), Limit("l", (), 1.0, 1.0, 1)
    quotas.of("busy", limit, 0.0).enter(0.0)
    for n in range(100):
        quotas.of(f"n{n}", limit, 0.0)
        assert len(quotas) <= 3
    assert quotas.of("busy", limit, 0.0).in_flight == 1


@pytest.mark.parametrize("in_flight", [0, 1])
def test_an_identity_has_one_bucket_however_many_others_come_after_it(in_flight: int) -> None:
    quotas, limit = Quotas(most=3), Limit("l", (), 1.0, 2.0, 5)
    held = quotas.of("first", limit, 0.0)  # by a cached caller, which goes on to use it
    for _ in range(in_flight):
        held.enter(0.0)
    held.enter(0.0)
    held.leave()
    for n in range(100):
        quotas.of(f"n{n}", limit, 0.0).enter(0.0)
        assert len(quotas) <= 3
    again = quotas.of("first", limit, 0.0)  # for another credential of the same identity
    assert again is held
    assert again.in_flight == in_flight
    assert len(quotas) <= 3


def test_a_limit_that_changes_keeps_what_is_under_way() -> None:
    quotas = Quotas()
    quotas.of("a", Limit("l", (), 0, 1.0, 1), 0.0).enter(0.0)
    assert quotas.of("a", Limit("l", (), 0, 1.0, 2), 0.0).in_flight == 1


# Signing in.


def test_each_failure_after_the_fifth_doubles_the_wait() -> None:
    tries, now, waits = sign_in_throttle.SignInThrottle(), 1000.0, []
    for _ in range(20):
        tries.failed("10.0.0.1", now)
        waits.append(tries.wait("10.0.0.1", now))
        now += waits[-1]
    assert waits[:8] == [0, 0, 0, 0, 1, 2, 4, 8]
    assert waits[-1] == 900
    assert tries.wait("10.0.0.2", now) == 0
    tries.succeeded("10.0.0.1")
    assert tries.wait("10.0.0.1", now - 1) == 0


def test_a_site_of_ipv6_is_one_peer_and_one_mapped_into_it_is_its_ipv4() -> None:
    tries = sign_in_throttle.SignInThrottle()
    for n in range(6):
        tries.failed(f"2001:db8::{n}", 1.0)
        tries.failed("::ffff:10.0.0.1", 1.0)
    assert tries.wait("2001:db8::ffff", 1.0) == tries.wait("10.0.0.1", 1.0) == 2
    assert tries.wait("2001:db9::1", 1.0) == 0


def test_many_peers_together_are_slowed_down_too() -> None:
    tries = sign_in_throttle.SignInThrottle()
    for n in range(10_000):
        tries.failed(f"10.0.{n // 256}.{n % 256}", 1.0)
    assert 0 < tries.wait("192.168.0.1", 1.0) <= 0.5
    assert tries.wait("192.168.0.1", 100.0) == 0
    assert len(tries._peers) <= 4096
    one_of_four = sign_in_throttle.SignInThrottle(share=4)
    for n in range(25):
        one_of_four.failed(f"10.0.0.{n}", 1.0)
    assert one_of_four.wait("192.168.0.1", 1.0) == 2.0


# Tokens.


def test_a_token_can_be_told_from_others_and_its_record_does_not_hold_it() -> None:
    text, token_id, digest = tokens.new_token()
    assert tokens.id_of(text) == token_id
    assert len(text) == len("turnout_") + 16 + 1 + 43
    assert tokens.digest_of(text) == digest
    assert text not in digest
    assert tokens.new_token()[0] != text
    for wrong in ("", "turnout_", text[:-1], text + "x", text.replace("_", "-"), f" {text}", text.upper()):
        assert tokens.id_of(wrong) is None
    assert not tokens.proves(text, None)


@pytest.mark.parametrize(
    ("given_roles", "models"), [([], ["*"]), (["root"], ["*"]), (["read"], []), (["read"], ["a b"])]
)
def test_a_token_for_nothing_is_refused(given_roles: list[str], models: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        tokens.check_scope(given_roles, models)


# The table, and callers.


def test_a_need_that_asks_for_a_role_names_it_and_others_do_not() -> None:
    for path, need in {**METHODS, **ROUTES}.items():
        asks = need.kind not in (ResourceKind.PUBLIC, ResourceKind.KNOWN) or path == "/readyz"  # it shows some more
        assert bool(need.roles) is asks, path
        assert "{model}" not in path or need.kind in (ResourceKind.MODEL, ResourceKind.SETTING), path
        assert (need.also is not None) >= (need.kind is ResourceKind.SETTING), path


def test_what_the_table_does_not_name_is_not_served() -> None:
    async def answer(_: bytes, __: RpcCall) -> bytes:
        return b""

    async def page(_: Request) -> Response:
        return Response()

    with pytest.raises(LookupError, match=r"does not say who may call /turnout\.v1\.ControlService/DropEverything"):
        protected({"/turnout.v1.ControlService/DropEverything": Unary(answer)}, None)
    with pytest.raises(LookupError, match="does not say who may call /debug"):
        protect([Route("/debug", page)], None, lambda _: lambda __, ___: Response())
    with pytest.raises(LookupError, match="does not say who may call /everything"):
        protect([Mount("/everything", Router())], None, lambda _: lambda __, ___: Response())


def test_a_token_keeps_its_own_scopes_whatever_the_policy_says() -> None:
    caller = Caller(Identity("token:a"), [scope("read", "m")], "token 1", own=True)
    caller.change([scope("admin", "*")], None)
    assert caller.may(AccessRole.READ, "m")
    assert not caller.may(AccessRole.ADMIN, "m")


# What listens where.

TLS = {"cert": "c.pem", "key": "k.pem"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"grpc": "127.8.0.1:1", "http": "[::1]:1", "control": "localhost:1"},
        {"grpc": "0.0.0.0:1", "insecure": True},
        {"grpc": "0.0.0.0:1", "tls": TLS, "auth": {"enabled": True}},
        {"grpc": "0.0.0.0:1", "tls": TLS | {"client_ca": "a.pem", "client_certificates": "required"}},
    ],
)
def test_what_is_loopback_or_knows_who_comes_may_start(settings: dict[str, object]) -> None:
    check_exposure(Settings(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grpc": "0.0.0.0:1"}, r"^grpc \(0.0.0.0:1\): other machines reach it, and grpc has no TLS and identities"),
        ({"http": "turnout:1"}, r"http has no TLS and identities"),
        ({"control": "[::]:1", "auth": {"enabled": True}}, r"control has no TLS, so"),
        ({"grpc": "10.0.0.1:1", "tls": TLS}, r"grpc has no identities, so.*: \[auth\] enabled = true|\[auth\]"),
        ({"grpc": "0.0.0.0:1", "tls": TLS | {"client_ca": "a", "client_certificates": "optional"}}, "no identities"),
        ({"grpc": "0.0.0.0:1", "http": "0.0.0.0:2"}, r"^grpc \(0.0.0.0:1\), http \(0.0.0.0:2\): other machines"),
        ({"http": "0.0.0.0:2", "auth": {"enabled": True}, "tls": TLS | {"http": {"enabled": False}}}, "http has no"),
    ],
)  # fmt: skip
def test_what_is_open_to_anybody_does_not_start_and_says_what_to_write(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_exposure(Settings(**settings))
    assert "--insecure (or insecure = true, or TURNOUT_INSECURE=true)" in caught.value.message


def test_roles_and_their_words_are_the_five() -> None:
    assert [str(role) for role in roles.AccessRole] == ["predict", "read", "publish", "operate", "admin"]
