"""Opens the console of a server under test in Chromium, and records errors of its pages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright

from debian import needs, program
from turnout.app.server import Running

CHROMIUM = program("chromium", "chromium", "chromium-browser", "google-chrome")
needs_chromium = needs(CHROMIUM, "chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
TOKEN = "a console token of some length"
PATIENCE_MS = 60_000


@dataclass
class Tab:
    """A page of the console, and what was recorded about it.

    Attributes:
        page: The page.
        origin: Origin of the server.
        wrong: Errors in the browser's console, violations of the page's policy, requests to other hosts.
    """

    page: Page
    origin: str
    wrong: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        """Opens a page."""
        answer = await self.page.goto(self.origin + path, wait_until="load")
        assert answer is not None
        assert answer.status == 200, (path, answer.status)

    async def findings(self, *, of_colours: bool = False) -> list[str]:
        """Returns the serious and critical findings of axe-core; with `of_colours`, only those about colours."""
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if of_colours:
            # By name, since the category's tag includes rules of level AAA.
            options["runOnly"] = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
        if not await self.page.evaluate("'axe' in window"):  # half a megabyte of script, once per page
            await self.page.evaluate(Axe().axe_script)
        # Only the violations, since the other results are very large.
        found = await self.page.evaluate("options => axe.run(options).then(results => results.violations)", options)
        return [
            f"{v['id']}: {node['target']} {node['failureSummary']}"
            for v in found
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"]
        ]

    async def overflow(self) -> int:
        """Returns by how many pixels the page is wider than its window."""
        return int(
            await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )

    async def sign_in(self, name: str, token: str = TOKEN) -> None:
        """Signs in from the current page, and returns to it."""
        await self.page.get_by_role("link", name="Sign in").first.click()
        await self.page.get_by_label("Your name").fill(name)
        await self.page.get_by_label("Console token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Runs the browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(browser: Browser, server: Running, **context: Any) -> AsyncIterator[Tab]:
    """Opens a tab in its own profile. Fails at the end if an error was recorded."""
    profile = await browser.new_context(**context)
    profile.set_default_timeout(PATIENCE_MS)
    page = await profile.new_page()
    opened = Tab(page, f"http://{server.http}")
    host = urlsplit(opened.origin).netloc

    def requested(url: str) -> None:
        if urlsplit(url).netloc != host and not url.startswith("data:"):
            opened.wrong.append(f"request to {url}")

    page.on("request", lambda request: requested(request.url))
    page.on("pageerror", lambda error: opened.wrong.append(f"script: {error}"))
    page.on("console", lambda line: opened.wrong.append(line.text) if line.type in ("error", "warning") else None)
    try:
        yield opened
    finally:
        await profile.close()
    assert opened.wrong == []
