"""Renders templates, and sets the headers of every page of the console."""

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from turnout.registry.manifest.manifest import metadata_text
from turnout.web.report.page import templates

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Pages load and run only what this server ships, and no other site can put one into a frame.

The referrer stays within the console; with `no-referrer`, browsers would send `Origin: null` with our own forms.
"""

STATIC = {
    "console.css": "text/css",
    "palette.css": "text/css",
    "console.js": "text/javascript",
    "rollout-plots.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "vendor/htmx/htmx.min.js": "text/javascript",
    "vendor/idiomorph/idiomorph-ext.min.js": "text/javascript",
    "vendor/uplot/uPlot.iife.min.js": "text/javascript",
    "vendor/uplot/uPlot.min.css": "text/css",
}
"""The static files by path; a name from a URL is looked up here and never opens a file."""


def bytes_text(count: float) -> str:
    """Returns `1.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the loop returns")


def clock_text(when: datetime) -> str:
    """Returns a time without its zone, which is UTC, to the second."""
    return f"{when:%Y-%m-%d %H:%M:%S}"


def time_text(when: datetime) -> str:
    """Returns a time in UTC, to the second."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


_environment = templates("turnout.web.console")
_environment.filters |= {"bytes": bytes_text, "time": time_text, "stated": metadata_text, "clock": clock_text}


def page(template: str, request: Request, status: int = 200, **context: Any) -> Response:
    """Returns a page."""
    html = _environment.get_template(template).render(path=request.url.path, **context)
    return HTMLResponse(html, status, headers=HEADERS)


def static(name: str) -> Response:
    """Returns one of the files that pages load."""
    kind = STATIC.get(name)
    if kind is None:
        return Response("not found\n", 404, media_type="text/plain", headers=HEADERS)
    return Response(_read(name), media_type=kind, headers=HEADERS | {"Cache-Control": "public, max-age=300"})


@cache
def _read(name: str) -> bytes:
    return (files("turnout.web") / "static" / name).read_bytes()
