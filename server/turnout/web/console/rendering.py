"""Renders the console's templates and sets the headers of its responses."""

from functools import cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from turnout.registry.manifest.manifest import metadata_text
from turnout.text.quantities import size_text
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
"""Headers of all pages: they load and run only files of this server, and other sites cannot embed them in frames.

The referrer is sent only within the console. With `no-referrer`, browsers would send `Origin: null` with its forms.
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
"""Static files and their content types. Names from URLs are looked up here and never used to open files."""


_environment = templates("turnout.web.console")
_environment.filters |= {"bytes": size_text, "stated": metadata_text}


def page(template: str, request: Request, status: int = 200, **context: Any) -> Response:
    """Returns the response with a rendered template."""
    html = _environment.get_template(template).render(path=request.url.path, **context)
    return HTMLResponse(html, status, headers=HEADERS)


def static(name: str) -> Response:
    """Returns the response with a static file."""
    kind = STATIC.get(name)
    if kind is None:
        return Response("not found\n", 404, media_type="text/plain", headers=HEADERS)
    return Response(_read(name), media_type=kind, headers=HEADERS | {"Cache-Control": "public, max-age=300"})


@cache
def _read(name: str) -> bytes:
    return (files("turnout.web") / "static" / name).read_bytes()
