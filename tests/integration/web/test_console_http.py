"""The console without a browser: what goes over the wire, and what a stranger, a forger or an old page gets."""

import asyncio
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser

import httpx
import onnx
import pytest
from semver import Version

import onnx_models
from rollout_wire import LONG, TICK, in_state, latest, start, until
from routing_wire import policy, put
from turnout.app.server import Running
from turnout.config import Settings
from turnout.registry.compatibility.compat import VersionBump
from turnout.registry.gates.bump import BumpGate
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.gates.gate import GateOutcome
from turnout.registry.gates.plan import BumpOptions, OnFailure
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.web.console.rendering import STATIC

TOKEN = "a console token of some length"
ROLLOUT = "/console/models/m/rollouts/1"
PAGES = (
    "/console", "/console/models/m", "/console/models/m/versions/1.0.0", "/console/models/m/versions/1.1.0?with=1.0.0",
    "/console/models/m/route", "/console/models/m/route?selector=^1&key=ann", "/console/models/m/route?selector=^^",
    "/console/models/m/shadow", ROLLOUT, "/console/sign-in",
)  # fmt: skip
MISSING = (
    "/console/nothing",
    "/console/models/none",
    "/console/models/m/versions/9.9.9",
    "/console/models/m/rollouts/7",
)


@pytest.fixture
def serve(publish_model, start_server):
    """Starts a server with a rollout of `m` 1.1.0 that soaks for long, and 25% of the traffic."""

    async def begin(**settings) -> Running:
        publish_model("m", "1.0.0", onnx_models.look_up_safely())
        publish_model("m", "1.1.0", onnx_models.look_up_safely(), release=False)
        server = await start_server(rollout=TICK, console=settings or {"token": TOKEN})
        await put(server, policy("1.0.0"))
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        return server

    return begin


@asynccontextmanager
async def visitor(server: Running, *, origin: str = "own", **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Opens a client that says of its posts what a browser would on the console's own page, unless told otherwise."""
    base = f"http://{server.http}"
    message = {"origin": base if origin == "own" else origin} if origin else {}
    async with httpx.AsyncClient(base_url=base, headers=message | headers) as client:
        yield client


async def sign_in(
    client: httpx.AsyncClient, token: str = TOKEN, following: str = "", name: str = "ann"
) -> httpx.Response:
    return await client.post("/console/sign-in", params={"next": following}, data={"name": name, "token": token})


async def press(client: httpx.AsyncClient, server: Running, command: str = "pause", **fields: str) -> httpx.Response:
    """Presses a button on the page as it is now."""
    epoch = str((await latest(server)).epoch)
    return await client.post(f"{ROLLOUT}/{command}", data={"epoch": epoch, "reason": "lunch"} | fields)


async def untouched(server: Running) -> bool:
    rollout = await latest(server)
    return rollout.state == "soaking" and not rollout.pauses


class Inline(HTMLParser):
    """Finds what a strict policy would block, and what is loaded from where."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in known):
            self.wrong.append(tag)
        self.wrong += [f"{tag} {name}" for name in known if name == "style" or name.startswith("on")]
        if tag in ("script", "link", "img"):
            self.loaded.append(known.get("src") or known.get("href") or "")


async def test_every_page_has_a_strict_policy_and_needs_nothing_that_it_forbids(serve) -> None:
    server = await serve()
    async with visitor(server) as client:
        for path in (*PAGES, *MISSING):
            answer = await client.get(path)
            assert answer.status_code == (404 if path in MISSING else 200), path
            rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
            assert rules["default-src"] == "'none'"
            assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == rules["form-action"] == "'self'"
            assert rules["frame-ancestors"] == rules["base-uri"] == "'none'"
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            page = Inline()
            page.feed(answer.text)
            assert page.wrong == [], path
            assert all(source.startswith("/console/static/") for source in page.loaded), page.loaded


async def test_static_files_are_the_ones_that_are_listed_and_no_other(serve) -> None:
    server = await serve()
    async with visitor(server) as client:
        for name, kind in STATIC.items():
            answer = await client.get(f"/console/static/{name}")
            assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, kind)
            assert not re.search(r"https?://(?!www\.w3\.org/)", answer.text) or "vendor" in name, name
        for name in ("", "console.css/..", "../server.py", "..%2fserver.py", "%2e%2e/server.py", "vendor/README.md"):
            assert (await client.get(f"/console/static/{name}")).status_code == 404, name


async def test_without_a_session_every_change_is_refused(serve) -> None:
    server = await serve()
    async with visitor(server) as client:
        for command in ("pause", "resume", "promote", "promote-full", "abort"):
            answer = await press(client, server, command)
            assert answer.status_code == 403, command
            assert "sign in with the console token first" in answer.text
        wrong = await sign_in(client, "a wrong token of some length")
        assert wrong.status_code == 403
        assert 'value="ann"' in wrong.text  # only the token has to be typed again
        assert "a wrong token" not in wrong.text
        nasty = await sign_in(client, "a wrong token of some length", name='"><script>')
        assert 'value="&#34;&gt;&lt;script&gt;"' in nasty.text
        assert (await sign_in(client, "")).status_code == 403
        assert not client.cookies
        assert (await press(client, server)).status_code == 403
        assert (await client.get(f"{ROLLOUT}/abort")).status_code in (404, 405)  # following a link changes nothing
    assert await untouched(server)


async def test_where_no_token_is_configured_nobody_signs_in_and_no_button_is_shown(serve) -> None:
    server = await serve(enabled=True)
    async with visitor(server) as client:
        for token in ("", TOKEN):
            assert (await sign_in(client, token)).status_code == 403
        assert (await press(client, server)).status_code == 403
        for path in PAGES:
            text = (await client.get(path)).text
            assert 'method="post"' not in text, path
            assert "formaction" not in text, path
    assert await untouched(server)


async def test_with_a_session_a_button_does_what_it_says(serve) -> None:
    server = await serve()
    async with visitor(server) as client:
        answer = await sign_in(client, following=ROLLOUT)
        assert (answer.status_code, answer.headers["location"]) == (303, ROLLOUT)
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=/console" in cookie
        assert TOKEN not in cookie
        answer = await press(client, server)
        assert (answer.status_code, answer.headers["location"]) == (303, ROLLOUT)
        assert list((await latest(server)).pauses) == ["lunch (ann)"]
        assert (await press(client, server, "resume")).status_code == 303
        await until(server, in_state("soaking"))
        await client.post("/console/sign-out")
        assert (await press(client, server)).status_code == 403
    assert await untouched(server)


async def test_who_signs_out_takes_all_copies_of_the_cookie_along_and_no_other_session(serve) -> None:
    server = await serve()
    async with visitor(server) as client, visitor(server) as thief, visitor(server) as other:
        await sign_in(client)
        await sign_in(other)
        thief.cookies.update(client.cookies)
        assert (await press(thief, server)).status_code == 303
        assert (await client.post("/console/sign-out")).status_code == 303
        assert (await press(thief, server, "resume")).status_code == 403
        assert (await thief.post("/console/sign-out")).status_code == 303, "it says no more than that"
        assert (await press(other, server, "resume")).status_code == 303
        await sign_in(client)
        assert (await press(client, server)).status_code == 303, "the same visitor may return"


async def test_a_change_from_another_origin_is_refused_even_with_the_cookie(serve) -> None:
    server = await serve()
    strangers = [("http://evil.example", {}), ("null", {}), ("", {}), (f"http://{server.http}.evil.example", {})]
    strangers += [("own", {"sec-fetch-site": site}) for site in ("cross-site", "same-site")]
    async with visitor(server) as own:
        await sign_in(own)
        for origin, headers in strangers:
            async with visitor(server, origin=origin, **headers) as other:
                other.cookies = own.cookies
                answer = await press(other, server, "abort")
                assert answer.status_code == 403, origin
                assert "own page" in answer.text
                assert (await sign_in(other)).status_code == 403
                assert (await other.post("/console/sign-out")).status_code == 403
        assert await untouched(server)
        assert (await press(own, server)).status_code == 303


async def test_a_cookie_that_was_not_made_here_is_worth_nothing(serve, publish_model, start_server) -> None:
    server = await serve()
    other = await start_server(console={"token": TOKEN})
    async with visitor(server) as client, visitor(other) as elsewhere:
        await sign_in(client)
        (name, value), = client.cookies.items()  # fmt: skip
        await sign_in(elsewhere)
        text, _, signature = value.partition(".")
        forged = [
            elsewhere.cookies[name],
            f"{text}.",
            text,
            "",
            f"{text}.{signature[:-1]}é",
            "é",
            f"{text[:-4]}.{signature}",
        ]
        forged += [f".{signature}", "x" * 5000]
        for cookie in forged:
            async with visitor(server, cookie=f"{name}=".encode() + cookie.encode()) as forger:
                assert (await press(forger, server)).status_code == 403, cookie
                assert (await forger.get(ROLLOUT)).status_code == 200
    assert await untouched(server)


async def test_signing_in_leads_nowhere_but_into_the_console(serve) -> None:
    server = await serve()
    outside = (
        "https://evil.example/",
        "//evil.example",
        "/metrics",
        "/console/../metrics",
        "/console/a/./../../metrics",
    )
    async with visitor(server) as client:
        for following in (*outside, "/console//evil", "javascript:alert(1)", "/console/x?next=y", "/console\n"):
            assert (await sign_in(client, following=following)).headers["location"] == "/console", following
        for following in ("/console/models/m", ROLLOUT, "/console/models/m/versions/1.0.0-rc.1+b"):
            assert (await sign_in(client, following=following)).headers["location"] == following


async def test_what_is_posted_is_checked_before_it_is_obeyed(serve) -> None:
    server = await serve()
    async with visitor(server) as client:
        await sign_in(client)
        for fields in ({"epoch": ""}, {"epoch": "-1"}, {"epoch": "1e3"}, {"epoch": "9" * 40}, {"reason": "é" * 600}):
            assert (await press(client, server, **fields)).status_code == 400, fields
        assert (await press(client, server, "explode")).status_code == 400
        assert (await press(client, server, reason="x" * 20_000)).status_code == 400
        stale = await press(client, server, epoch="1")
        assert stale.status_code == 409
        assert "look again" in stale.text
        gone = await client.post("/console/models/none/rollouts/1/pause", data={"epoch": "1"})
        assert gone.status_code == 404
    assert await untouched(server)


async def test_the_console_can_be_left_out(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(1))
    server = await start_server(console={"enabled": False})
    async with visitor(server) as client:
        for path in ("/", "/console", "/console/models/m", "/console/static/console.css"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/metrics")).status_code == 200


def variant(proto: onnx.ModelProto, doc: str) -> onnx.ModelProto:
    proto.doc_string = doc  # other bytes, the same weights
    return proto


async def test_two_versions_are_compared_to_the_verdict_that_the_gate_bump_had(
    models, tmp_path, processes, start_server
) -> None:
    versions = {
        "1.0.0": onnx_models.scaled(2.0),
        "1.0.1": variant(onnx_models.scaled(2.0), "again"),
        "1.0.2": onnx_models.scaled(3.0),  # more than a PATCH may do
        "1.1.0": onnx_models.scaled(4.0),
        "1.2.0": onnx_models.look_up_safely(),  # other inputs
    }
    repository, verdicts = Repository(models), {}
    for version, proto in versions.items():
        comparison = ParentComparison(ProcessSandbox(Settings(models=models).for_model("m"), processes))
        request = PublishRequest("m", Version.parse(version), onnx_models.save(proto, tmp_path / "m.onnx"))
        gate = BumpGate(comparison, BumpOptions(on_failure=OnFailure.WARN))
        (result,) = publish(repository, request, gates=(gate,), comparison=comparison).report.results
        verdicts[version] = result.verdict
    server = await start_server()
    lower = dict(zip(list(versions)[1:], versions, strict=False))
    async with visitor(server) as client:
        for version, parent in lower.items():
            page = await client.get(f"/console/models/m/versions/{version}", params={"with": parent})
            text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", page.text)))
            verdict = verdicts[version]
            required, allowed = (VersionBump(int(verdict.numbers[name])) for name in ("required", "allowed"))
            passed = "enough" if verdict.outcome is GateOutcome.PASSED else "not enough"
            known = (
                "keeps the signature" not in verdict.evidence
            )  # else what a minor version may change is not looked at
            needed = f"has to be a {required} version" if known else "may be less than a major version"
            assert f"{version} over {parent} {needed}" in text
            assert f"Its number allows a {allowed} change: {passed}." in text
            for reason in verdict.evidence.split(": ", 1)[-1].split("; "):
                assert reason[1:] in text, (version, reason)
        assert {v: verdict.outcome is GateOutcome.PASSED for v, verdict in verdicts.items() if v in lower} == {
            "1.0.1": True, "1.0.2": False, "1.1.0": True, "1.2.0": False,
        }  # fmt: skip


async def test_versions_are_run_only_where_a_comparison_is_asked_for(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2.0))
    publish_model("m", "1.0.1", variant(onnx_models.scaled(2.0), "again"))
    server = await start_server()
    async with visitor(server) as client:
        page = (await client.get("/console/models/m/versions/1.0.1")).text
        assert "Press Compare to check weights and outputs" in page
        page = (await client.get("/console/models/m/versions/1.0.1?with=1.0.0")).text
        assert "are answered within tolerance" in page
        assert "Press Compare to check" not in page
        page = (await client.get("/console/models/m/versions/1.0.1")).text
        assert "are answered within tolerance" in page  # it is known by now


async def test_many_models_are_listed_by_name_first(publish_model, start_server) -> None:
    """With fifty models, the one in question used to be somewhere on a page of 10,000 pixels."""
    for number in range(10):
        publish_model(f"m{number}", "1.0.0", onnx_models.scaled(number))
    server = await start_server()
    async with visitor(server) as client:
        assert "Models by name" not in (await client.get("/console")).text
        publish_model("m-last", "1.0.0", onnx_models.scaled(10))
        async with asyncio.timeout(100):
            while "Models by name" not in (shown := (await client.get("/console")).text):
                await asyncio.sleep(0.05)
    listed = shown.partition('aria-label="Models by name">')[2].partition("</ul>")[0]
    assert re.findall(r'href="/console/models/([^"]+)"', listed) == sorted(["m-last", *(f"m{n}" for n in range(10))])
