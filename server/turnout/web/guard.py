"""Refuses requests that a browser sends for a page of another site, or to a name that is not this server's.

A page on the web can have its visitor's browser send requests to any address that the visitor reaches, the loopback
too. Browsers say so in Origin and Sec-Fetch-Site, which programs do not send. And the owner of a name can
point it to this server's address (DNS rebinding): the browser then takes this server for that site, but sends the name
in Host.
"""

from collections.abc import Collection
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from turnout.address import LOOPBACK_NAMES

_FORM_TYPES = frozenset({"text/plain", "multipart/form-data"})
"""Content types that a page may send to another site without asking first, and that no client of ours sends. The third
such type, `application/x-www-form-urlencoded`, is not listed: `curl -d` sends it with JSON."""


class BrowserGuard:
    """An ASGI application in front of another: refuses requests that another site made a browser send."""

    def __init__(self, application: ASGIApp, hosts: Collection[str], *, loopback: bool) -> None:
        """Prepares.

        Args:
            application: Receives requests that are not refused.
            hosts: Names of the server, without a port; if empty, see `loopback`.
            loopback: Whether the server listens on a loopback address. If so, and `hosts` is empty, its only name is
                localhost; if not, and `hosts` is empty, any name is accepted.
        """
        self._application = application
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._any_name = not self._hosts and not loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and (refusal := self._refusal(scope["method"], Headers(scope=scope))):
            status, message = refusal
            await PlainTextResponse(message + "\n", status)(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Returns the status and the message of a refusal; None if the request is allowed."""
        given = headers.getlist("host")  # none: HTTP/1.0, which no browser speaks
        if len(given) > 1:
            return 400, "expected one Host header"
        for host in given:
            if not self._reached_by(host):
                name = host_name(host)[:64]
                return 421, f"this server does not go by the name {name!r}: if it should, put it in [web] hosts"
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        if not same_site(headers):
            return 403, "a page of another site may not send this: only programs and this server's own pages may"
        if headers.get("content-type", "").partition(";")[0].strip().lower() in _FORM_TYPES:
            return 415, "expected application/json"
        return None

    def _reached_by(self, host: str) -> bool:
        name = host_name(host)
        return self._any_name or name in self._hosts or name in LOOPBACK_NAMES or _is_address(name)


def same_site(headers: Headers) -> bool:
    """Tells whether a request comes from a program, or from a page of this very origin."""
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()


def host_name(host: str) -> str:
    """Returns the name or address in a Host header, in lower case, without its port and brackets."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return (name.rpartition(":")[0] or name if name.count(":") == 1 else name).rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
