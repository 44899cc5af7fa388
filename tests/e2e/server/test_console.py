"""The console in a browser: every page in both themes and on a phone, and a rollout that is watched and steered."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

import onnx_models
from console_wire import PATIENCE_MS, TOKEN, Tab, chromium, needs_chromium, tab
from processes import turnout
from rollout_wire import FINAL, TICK, clients, command, in_state, latest, start, until
from routing_wire import policy, put
from shadow_wire import PATIENT, numbered, predict, settled
from started_servers import StartServer, make_settings
from turnout.app.server import Running, running
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.telemetry.logging import make_logger
from turnout.web.console import recent
from turnout_proto.v1 import prediction_pb2 as v1
from turnout_proto.v1 import rollout_pb2 as pb
from wire import request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),  # the browser's: it starts once, in 1.1 s of CPU
    needs_chromium,
]

QUICK = {
    "steps": [{"weight": 0.25, "soak_s": 0.5}, {"weight": 0.5, "soak_s": 0.5}], "metrics": ["errors"],
    "min_requests": 20, "watch_s": 0.5,
}  # fmt: skip
LONG = {"steps": [{"weight": 0.25, "soak_s": 3600}, {"weight": 0.5, "soak_s": 3600}], "metrics": ["errors"]}
NASTY = "<img src=x onerror=alert(1)> \"quoted\" & 'so on' " + "long" * 60
ROLLOUT = "/console/models/m/rollouts/1"
NAMED = """element => [element.tagName, element.id, element.getAttribute("href"), element.getAttribute("aria-label"),
    element.textContent.slice(0, 40)].join("|")"""
CONTROLS = f"""() => Array.from(
    document.querySelectorAll("a[href], button:enabled, input:not([type=hidden]), select, [tabindex='0']")
).filter(element => element.checkVisibility()).map({NAMED})"""
FOCUSED = f"() => [({NAMED})(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
CLIPPED = "regions => regions.filter(each => each.scrollWidth > each.clientWidth).map(each => each.ariaLabel)"
expect.set_options(timeout=PATIENCE_MS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests: each opens its tabs in profiles of their own."""
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def start_server(models) -> AsyncIterator[StartServer]:
    """Starts servers as everywhere, on the event loop that the browser is driven from."""
    async with AsyncExitStack() as stack:

        async def start(**settings) -> Running:
            made = make_settings(models, **settings)
            server = await stack.enter_async_context(running(made, make_logger("json", "warning")))
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            return server

        yield start


@pytest.fixture
def serve(publish_model, start_server):
    """Starts a server: `m` 1.0.0 released, 1.1.0 alike, 1.2.0 that raises on indexes from 300 on."""

    async def begin(**settings) -> Running:
        nasty = VersionMetadata(description=NASTY, authors=("Ann", "<b>Bob</b>"), free={"nested": {"<i>": [1, None]}})
        publish_model("m", "1.0.0", onnx_models.look_up_safely(), metadata=nasty)
        publish_model("m", "1.1.0", onnx_models.look_up_safely(), release=False)
        publish_model("m", "1.2.0", onnx_models.look_up(), release=False)
        return await start_server(rollout=TICK, console={"token": TOKEN} | settings.pop("console", {}), **settings)

    return begin


def one(number: int) -> v1.PredictRequest:
    """A request; one of five is beyond what 1.2.0 takes."""
    return request("m", index=np.array([1000 if number % 5 == 0 else number % 300]))


@asynccontextmanager
async def load(server: Running, pause: float = 0.1) -> AsyncIterator[None]:
    """Sends requests for as long as the context is entered: twenty a second, or more where a verdict waits for them."""
    async with clients(server, one, count=2, pause=pause):
        yield


async def test_every_page_holds_in_both_themes_and_on_a_phone(serve, browser, publish_model) -> None:
    for version, factor in (("1.0.0", 2.0), ("1.1.0", 3.0)):
        publish_model("scaled", version, onnx_models.scaled(factor), release=version == "1.0.0")
    for minor in range(30):
        publish_model("many", f"1.{minor}.0-rc.{'x' * 40}", onnx_models.scaled(minor), release=minor == 0)
    server = await serve(shadow=PATIENT | {"isolation": "thread", "noise_rate": 0})
    async with load(server, pause=0.01):
        await start(server, "1.2.0", QUICK, actor=NASTY[:60], reason=NASTY)
        await until(server, in_state(*FINAL))
    pages = [
        "/console", "/console/models/m", "/console/models/many", "/console/models/m/versions/1.0.0",
        "/console/models/m/versions/1.2.0?with=1.0.0", "/console/models/m/route?selector=%5E1&key=ann",
        "/console/models/m/route?selector=%5E%5E", "/console/models/m/shadow", ROLLOUT, "/console/sign-in",
    ]  # fmt: skip
    charted = ["/console/models/m"]  # colours are read by scripts only where there are charts
    looks = [
        ({"color_scheme": "light"}, pages),
        ({"color_scheme": "dark"}, charted),
        ({"color_scheme": "light", "viewport": {"width": 390, "height": 844}}, pages),
    ]
    for look, opened in looks:
        async with tab(browser, server, **look) as here:
            for path in opened:
                await here.open(path)
                assert await here.overflow() <= 0, (path, look)
                assert await here.page.locator("main img").count() == 0
                if look == {"color_scheme": "light"}:
                    assert await here.findings() == [], path
                    # A theme changes colours and nothing else, and does so while somebody looks at the page.
                    await here.page.emulate_media(color_scheme="dark")
                    assert await here.overflow() <= 0, (path, "dark")
                    assert await here.findings(of_colours=True) == [], (path, "dark")
                    await here.page.emulate_media(color_scheme="light")
            await here.open(ROLLOUT)
            await expect(here.page.locator("#evidence canvas")).to_be_visible()
            await expect(here.page.locator("#live")).to_contain_text(NASTY[:40])
            if "viewport" in look:  # each value stands beside its name, not upon it
                paddings = "cells => cells.map(cell => getComputedStyle(cell).paddingLeft)"
                assert set(await here.page.locator(".stack td").evaluate_all(paddings)) == {"136px"}


async def test_names_of_any_length_hide_nothing_else(serve, browser, publish_model, tmp_path) -> None:
    """A version's name has up to 128 characters. It used to push the other columns, and the page, off a phone."""
    report = tmp_path / "report.html"
    model, long = "a-model-" + "x" * 80, f"1.1.0-rc.{'x' * 60}.{'y' * 58}"
    publish_model(model, "1.0.0", onnx_models.look_up_safely())
    publish_model(model, long, onnx_models.look_up_safely(), release=False)
    server = await serve()
    turns = itertools.cycle(("", long))
    ask = partial(request, model, index=np.array([1]))
    async with clients(server, lambda number: ask(version=next(turns)), count=2, pause=0.1):
        await start(server, long, LONG, model=model)
        await until(server, in_state("soaking"), model=model)
        pages = ["", f"/models/{model}", f"/models/{model}/rollouts/1", f"/models/{model}/versions/{long}?with=1.0.0"]
        arguments = ["rollout", "report", model, "--html", report, "--server", str(server.control)]
        await asyncio.to_thread(turnout, *arguments)
        for width in (1280, 390):
            async with tab(browser, server, viewport={"width": width, "height": 844}) as here:
                for path in pages:
                    await here.open(f"/console{path}")
                    if path.endswith(model):
                        await expect(here.page.locator(".chart canvas").first).to_be_visible()
                    assert await here.overflow() <= 0, (path, width)
                    assert await here.page.locator(".scroll").evaluate_all(CLIPPED) == [], (path, width)
            page = await browser.new_page(viewport={"width": width, "height": 844})
            await page.goto(f"file://{report}")
            await expect(page.locator("canvas").first).to_be_visible()
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await page.evaluate(overflow) <= 0, ("report", width)
            await page.close()


async def test_what_the_pages_tell_to_type_is_accepted(serve, browser, publish_model) -> None:
    publish_model("new", "0.1.0", onnx_models.look_up_safely(), release=False)
    server = await serve()
    async with tab(browser, server) as here:
        await here.open("/console/models/new")
        await expect(here.page.locator("main")).to_contain_text("no version is released, so requests have to name one")
        release = await here.page.locator("main code", has_text="turnout").all_text_contents()
        await here.open("/console/models/m/shadow")
        (shadow,) = await here.page.locator("main code").all_text_contents()
        await here.open("/console/models/m")
        (rollout,) = await here.page.locator("main code", has_text="turnout").all_text_contents()
    assert release == ["turnout release new@VERSION"]  # and no rollout, which has nothing to compare with
    typed = (
        (release[0], ["0.1.0"]),
        (shadow, ["1.0.0", "1.1.0"]),
        (rollout, ["1.2.0"]),
    )
    for command_line, versions in typed:
        for version in versions:
            command_line = command_line.replace("VERSION", version, 1)
        arguments = [*command_line.split()[1:], "--server", str(server.control)]
        done = await asyncio.to_thread(turnout, *arguments, check=False)
        assert done.returncode == 0, (command_line, done.stderr)


async def test_a_refresh_that_was_queued_when_the_rollout_ended_puts_no_page_into_the_page(serve, browser) -> None:
    server = await serve()
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await here.open(ROLLOUT)
        page, let_go = here.page, asyncio.Event()
        await page.evaluate("() => document.body.addEventListener('htmx:afterSettle', () => { window.swaps += 1; })")
        await page.evaluate("window.swaps = 0")

        async def slow(route: Route) -> None:
            await let_go.wait()
            await route.continue_()

        await page.route(f"**{ROLLOUT}", slow)
        await page.wait_for_function(
            "() => (document.getElementById('live')['htmx-internal-data'].queuedRequests || []).length > 0"
        )
        swaps = await page.evaluate("window.swaps")
        await command(server, pb.ROLLOUT_COMMAND_ABORT, actor="ann", reason="enough")
        await until(server, in_state(*FINAL))
        let_go.set()
        await page.wait_for_function(f"() => window.swaps >= {swaps + 2}")
        await expect(page.locator("#live [role=status]")).to_contain_text("Rolled back")
        assert [await page.locator(each).count() for each in ("#live", "h1", "header", "#stale")] == [1, 1, 1, 1]


async def test_a_rollout_is_followed_to_its_rollback_without_a_reload(serve, browser) -> None:
    server = await serve()
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await here.open(ROLLOUT)
        page = here.page
        await page.evaluate("window.here = 'the same page'")
        await expect(page.locator("#live [role=status]")).to_contain_text("Soaking, step 1 of 2 at 25%")
        scroll = page.get_by_role("region", name="What each metric shows")
        await scroll.focus()
        async with page.expect_response(lambda r: r.url.endswith(ROLLOUT)):
            pass
        await command(server, pb.ROLLOUT_COMMAND_PAUSE, actor="ann", reason="lunch")
        await expect(page.locator("#live [role=status]")).to_contain_text("paused: lunch (ann)")
        await expect(scroll).to_be_focused()
        await command(server, pb.ROLLOUT_COMMAND_ABORT, actor="ann", reason="enough is enough")
        await until(server, in_state(*FINAL))
        await expect(page.locator("#live [role=status]")).to_contain_text("Rolled back")
        await expect(page.locator(".verdict")).to_contain_text("enough is enough")
        await expect(page.get_by_role("region", name="Table of events")).to_contain_text("abort")
        assert await page.evaluate("window.here") == "the same page"
        await expect(page.locator("#live")).not_to_have_attribute("hx-get", re.compile(".*"))


async def test_evidence_that_takes_a_candidate_back_is_watched_as_it_grows(serve, browser) -> None:
    server = await serve()
    async with load(server, pause=0.01), tab(browser, server) as here:
        await here.open("/console/models/m")
        await expect(here.page.locator("#live")).to_contain_text("None so far")
        await start(server, "1.2.0", QUICK)
        await here.page.get_by_role("link", name="1", exact=True).click()  # the table of rollouts has it by itself
        await expect(here.page.locator(".verdict")).to_contain_text("1.2.0 is worse than 1.0.0 (errors:")
        await expect(here.page.locator("#evidence canvas")).to_be_visible()
        await expect(here.page.locator("#evidence .u-legend")).to_contain_text("rolled back at")


async def test_what_is_typed_stays_while_the_page_refreshes_and_the_epoch_follows(serve, browser) -> None:
    server = await serve()
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await here.open(ROLLOUT)
        await here.sign_in("ann")
        page = here.page
        await expect(page.locator("#live [role=status]")).to_contain_text("Soaking")
        why = page.get_by_label("Reason")
        await why.fill("half a sen")
        before = await page.locator("input[name=epoch]").get_attribute("value")
        epoch = (await command(server, pb.ROLLOUT_COMMAND_PAUSE, actor="bob", reason="wait")).epoch
        await expect(page.locator("input[name=epoch]")).to_have_value(str(epoch))
        assert str(epoch) != before
        await expect(why).to_be_focused()
        await why.press_sequentially("tence")
        await expect(why).to_have_value("half a sentence")
        await expect(page.get_by_role("button", name="Pause")).to_be_disabled()


async def test_an_operator_with_the_token_pauses_resumes_promotes_and_aborts_by_keyboard(serve, browser) -> None:
    server = await serve()
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        await here.open(ROLLOUT)
        await here.sign_in("ann", "a wrong token of some length")
        await expect(here.page.get_by_role("alert")).to_contain_text("That is not the console token")
        here.wrong.clear()  # the browser notes the 403
        await here.page.get_by_label("Your name").fill("ann <ops>")
        await here.page.get_by_label("Console token").fill(TOKEN)
        await here.page.keyboard.press("Enter")
        page = here.page
        status = page.locator("#live [role=status]")
        await expect(page).to_have_url(here.origin + ROLLOUT)
        await expect(page.locator(".who")).to_contain_text("ann <ops>")

        await page.get_by_label("Reason").fill("lunch")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Pause")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(status).to_contain_text("paused: lunch (ann <ops>)")
        await page.get_by_role("button", name="Resume").press("Enter")
        await expect(status).not_to_contain_text("paused")
        await until(server, in_state("soaking"))
        await page.reload()
        await page.get_by_role("button", name="Next step now").press("Enter")
        await expect(status).to_contain_text("step 2 of 2 at 50%")
        await until(server, in_state("soaking"))
        await page.reload()
        page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.dismiss()))
        await page.get_by_role("button", name="Make it the baseline now").press("Enter")
        assert (await latest(server)).state == "soaking"  # asked first, and told no
        await page.get_by_label("Reason").fill("enough")
        await page.get_by_role("button", name="Roll back").press("Enter")
        await until(server, in_state(*FINAL))
        await expect(status).to_contain_text("Rolled back")
        await expect(page.get_by_role("heading", name="Actions")).to_have_count(0)
        assert ("abort", "enough", "ann <ops>") in [(e.kind, e.text, e.actor) for e in (await latest(server)).events]
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("link", name="Sign in").first).to_be_visible()


async def test_a_refresh_that_is_answered_by_another_page_leaves_what_is_shown_and_says_so(serve, browser) -> None:
    server = await serve()
    async with tab(browser, server) as here:
        await here.open("/console/models/m")
        page = here.page

        async def signed_out(route: Route) -> None:
            await route.continue_(url=f"http://{server.http}/console/sign-in")

        await page.route("**/console/models/m", signed_out)
        await expect(page.locator("#stale")).to_contain_text("the server sent another page, such as the sign-in")
        await expect(page.locator("#live")).to_contain_text("1.1.0")
        await page.unroute("**/console/models/m")
        await expect(page.locator("#stale")).to_be_empty()


async def test_a_button_on_an_old_page_is_refused_in_words(serve, browser) -> None:
    server = await serve()
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        await here.open(ROLLOUT)
        await here.sign_in("ann")
        page = here.page
        await expect(page.get_by_role("button", name="Roll back")).to_be_enabled()
        await page.route("**" + ROLLOUT, lambda route: route.abort())  # it refreshes no more
        seen = int(await page.locator("input[name=epoch]").input_value())
        now = (await command(server, pb.ROLLOUT_COMMAND_PAUSE, actor="bob", reason="wait")).epoch
        await expect(page.locator("#stale")).to_contain_text(
            "The server does not answer. This page shows the state as of"
        )
        await page.get_by_role("button", name="Roll back").click()
        await expect(page.get_by_role("alert")).to_contain_text(
            f"the rollout of 1.1.0 is at epoch {now} by now (soaking), not {seen}; look again"
        )
        await page.unroute_all()
        await page.get_by_role("link", name="Back to the rollout").click()
        await expect(page.locator("#live [role=status]")).to_contain_text("paused: wait (bob)")
        here.wrong.clear()  # the refused refreshes, and the 409


async def post(here: Tab, server: Running, command: str) -> int:
    """Posts what a button would, from the page that is open, by a script; returns the status."""
    epoch = (await latest(server)).epoch
    status = await here.page.evaluate(
        "([url, epoch]) => fetch(url, {method: 'POST', body: new URLSearchParams({epoch, reason: 'by a script'})})"
        ".then(answer => answer.status)",
        [f"{ROLLOUT}/{command}", str(epoch)],
    )
    here.wrong.clear()  # the browser notes the 403
    return int(status)


async def test_without_the_token_there_are_no_buttons_and_posts_are_refused(serve, browser) -> None:
    server = await serve(console={"token": ""})
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        await here.open(ROLLOUT)
        await expect(here.page.locator("main")).to_contain_text("This console is read-only")
        assert await here.page.get_by_role("button").count() == 0
        assert await here.page.locator("form").count() == 0
        for command in ("pause", "promote", "promote-full", "abort"):
            assert await post(here, server, command) == 403
        rollout = await latest(server)
        assert (rollout.state, list(rollout.pauses)) == ("soaking", [])


async def test_who_is_not_signed_in_sees_where_to_and_posts_are_refused(serve, browser) -> None:
    server = await serve()
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        await here.open(ROLLOUT)
        await expect(here.page.locator("main")).to_contain_text("Sign in with the console token to pause")
        assert await here.page.get_by_role("button").count() == 0
        assert await post(here, server, "abort") == 403
        assert (await latest(server)).state == "soaking"
        await here.sign_in("ann")
        await expect(here.page.get_by_role("button", name="Roll back")).to_be_enabled()
        assert await post(here, server, "abort") == 200  # the page that it leads to
        await until(server, in_state(*FINAL))


async def test_another_site_cannot_press_a_button_for_somebody_who_is_signed_in(serve, browser) -> None:
    server = await serve()
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        await here.open(ROLLOUT)
        await here.sign_in("ann")
        await expect(here.page.get_by_role("button", name="Roll back")).to_be_enabled()
        fields = f"<input name=epoch value={(await latest(server)).epoch}><button>Win</button>"
        form = f"<form method=post action='{here.origin}{ROLLOUT}/abort'>{fields}</form>"
        evil = await here.page.context.new_page()
        await evil.route("http://evil.test/", lambda route: route.fulfill(body=form, content_type="text/html"))
        await evil.goto("http://evil.test/")
        async with evil.expect_response("**/abort") as refused:
            await evil.get_by_role("button", name="Win").click()
        assert (await (await refused.value).request.header_value("cookie")) is None
        assert (await refused.value).status == 403
        rollout = await latest(server)
        assert (rollout.state, list(rollout.pauses)) == ("soaking", [])
        await here.page.get_by_role("button", name="Pause").click()  # the session is still there, for its owner
        await expect(here.page.locator("#live [role=status]")).to_contain_text("paused by hand (ann)")


async def test_every_control_of_every_page_is_reached_by_keyboard_and_shows_it(serve, browser) -> None:
    server = await serve()
    pages = (
        "/console", "/console/models/m", "/console/models/m/versions/1.2.0", "/console/models/m/route",
        "/console/models/m/shadow", ROLLOUT, "/console/sign-in",
    )  # fmt: skip
    async with load(server), tab(browser, server) as here:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        await here.open(ROLLOUT)
        await here.sign_in("ann")
        page = here.page
        await page.wait_for_url(here.origin + ROLLOUT)
        for path in pages:
            await here.open(path)
            wanted = set(await page.evaluate(CONTROLS))
            await page.keyboard.press("Tab")
            assert await page.evaluate("document.activeElement.className") == "skip", path
            outlines: dict[str, str] = {}
            for _ in range(2 * len(wanted)):
                name, outline = await page.evaluate(FOCUSED)
                outlines[name] = outline
                await page.keyboard.press("Tab")
            assert wanted <= outlines.keys(), (path, wanted - outlines.keys())
            assert {name for name in wanted if outlines[name] == "none"} == set(), path
        await here.open(ROLLOUT)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"


async def test_versions_are_held_against_each_other_and_routes_explained(serve, browser) -> None:
    server = await serve()
    await put(server, policy("1.0.0", v1_1_0=0.25))
    async with tab(browser, server) as here:
        page: Page = here.page
        await here.open("/console/models/m")
        await page.get_by_role("link", name="1.2.0").first.click()
        await page.get_by_label("Compare with").select_option("1.0.0")
        await page.get_by_role("button", name="Compare").click()
        await expect(page.locator("main")).to_contain_text("Its number allows a minor change: enough")
        await expect(page.get_by_role("region", name="Other differences")).to_contain_text("model.onnx")
        await expect(page.get_by_role("region", name="Other differences")).to_contain_text('{"<i>": [1, null]}')

        await here.open("/console/models/m/route")
        await expect(page.get_by_role("list", name="Versions that may answer")).to_contain_text("25%")
        await page.get_by_label("Version field").fill("1.2.0")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("list", name="Versions that may answer")).to_contain_text("100% pinned 1.2.0")
        await page.get_by_label("Version field").fill("one")
        await page.get_by_role("button", name="Explain").click()
        await expect(page.get_by_role("alert").or_(page.locator(".verdict"))).to_contain_text("one")


async def test_real_disagreements_are_shown_the_worst_first(publish_model, start_server, browser) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2.0))
    publish_model("m", "1.1.0", onnx_models.scaled(3.0), release=False)
    server = await start_server(shadow=PATIENT | {"isolation": "thread", "noise_rate": 0})
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    calls = [call for n in range(8) for call in numbered(1, start=n, x=np.full((1, 4), n, np.float32))]
    assert (await predict(server, calls)).errors == []
    comparison = await settled(server, "1.1.0", len(calls))
    assert comparison.outcomes["disagreed"] == 7  # all but the one of zeros
    async with tab(browser, server) as here:
        await here.open("/console/models/m/shadow")
        await expect(here.page.locator("main")).to_contain_text("7 disagreed")
        worst = here.page.get_by_role("region", name="Worst disagreements").locator("tbody tr")
        await expect(worst).to_have_count(7)
        assert {await row.locator("th").inner_text() for row in await worst.all()} == {f"r{n}" for n in range(1, 8)}
        assert await here.findings() == []


LEGEND = """id => Array.from(document.querySelectorAll(id + " .u-legend .u-series")).slice(1).map(
    row => [row.querySelector(".u-label").textContent,
            getComputedStyle(row.querySelector(".u-marker")).backgroundColor])"""
MARKED = """selector => Object.fromEntries(Array.from(document.querySelectorAll(selector)).map(
    cell => [cell.textContent.trim(), getComputedStyle(cell.querySelector(".swatch")).backgroundColor]))"""


async def test_a_version_has_one_colour_on_every_page_and_legends_are_as_the_tables(
    serve, browser, monkeypatch
) -> None:
    monkeypatch.setattr(recent, "SAMPLE_SECONDS", 0.5)
    server = await serve()
    async with load(server, pause=0.01), tab(browser, server) as here:
        page = here.page
        await start(server, "1.2.0", QUICK)
        await until(server, in_state(*FINAL))
        await here.open("/console/models/m")
        await expect(page.locator(".chart .u-legend").first).to_be_visible()
        versions = await page.evaluate(MARKED, "[aria-labelledby=versions] tbody th")
        assert list(versions) == ["1.2.0", "1.1.0", "1.0.0"]
        assert len(set(versions.values())) == 3
        legend = await page.evaluate(LEGEND, "[data-kind=rate]")
        assert [label for label, _ in legend] == [v for v in versions if v in dict(legend)]  # the table's order
        assert dict(legend).items() <= versions.items()
        heads = await page.locator("[aria-labelledby=versions] thead th.n").all_inner_texts()
        captions = [text.split(" ", 2) for text in await page.locator("figcaption").all_inner_texts()]
        assert [
            " ".join(words[: len(head.split())]) for words, head in zip(captions, heads[-4:], strict=True)
        ] == heads[-4:]

        await here.open(ROLLOUT)
        await expect(page.locator("#latency .u-legend")).to_be_visible()
        heads_by_version = await page.evaluate(MARKED, "[aria-labelledby=worse] thead th:has(.swatch)")
        assert heads_by_version == {v: versions[v] for v in ("1.2.0", "1.0.0")}
        for plot in ("#evidence", "#latency", "#weights"):  # at the width of their place before any window is resized
            place, drawn = [await page.locator(f"{plot}{inner}").bounding_box() for inner in ("", " .u-wrap")]
            assert drawn["width"] > 0.9 * place["width"] > 900
        assert await page.evaluate(LEGEND, "#latency") == [[v, versions[v]] for v in ("1.2.0", "1.0.0")]
        assert await page.evaluate(LEGEND, "#weights") == [["1.2.0", versions["1.2.0"]]]
        metrics = await page.evaluate(MARKED, "[aria-labelledby=worse] tbody th")
        evidence = await page.evaluate(LEGEND, "#evidence")
        assert [[name, colour] for name, colour in metrics.items()] == evidence[:-1]
        assert evidence[-1][0] == "rolled back at"
        await expect(page.locator(".stages .skipped")).to_contain_text(["not reached"])

        await here.open("/console/models/m/versions/1.2.0?with=1.0.0")
        assert await page.evaluate(MARKED, "[aria-labelledby=diff] thead th:has(.swatch)") == heads_by_version
