"""Rejects requests that a browser sends on behalf of another site, or to a host name that is not this server's.

A web page can make its visitor's browser send requests to any address that the visitor can reach, including loopback.
Browsers mark such requests with the headers Origin and Sec-Fetch-Site, which other programs do not send. The owner of a
host name can also point it to this server's address (DNS rebinding). The browser then treats this server as part of
that site, but sends the name in the Host header.
"""

from collections.abc import Collection
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from turnout.address import LOOPBACK_NAMES
from turnout.web.errors import refusal

_FORM_TYPES = frozenset({"text/plain", "multipart/form-data"})
"""Content types that a page can send to another site without a CORS preflight, and that Turnout's clients never send.
The third such type, `application/x-www-form-urlencoded`, is not listed because `curl -d` sends JSON with it."""


class BrowserGuard:
    """ASGI middleware that rejects requests which another site made a browser send."""

    def __init__(self, application: ASGIApp, hosts: Collection[str], *, loopback: bool) -> None:
        """Wraps an application of a server with these host names, each without a port.

        If there are none, a server on `loopback` accepts only localhost, and any other server accepts every name.
        """
        self._application = application
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._any_name = not self._hosts and not loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and (refused := self._refusal(scope["method"], Headers(scope=scope))):
            status, message = refused
            await refusal(scope["path"], status, message)(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        given = headers.getlist("host")  # missing in HTTP/1.0, which no browser uses
        if len(given) > 1:
            return 400, "expected one Host header"
        for host in given:
            name = host_name(host)
            if not (self._any_name or name in self._hosts or name in LOOPBACK_NAMES or _is_address(name)):
                return 421, f"this server does not go by the name {name[:64]!r}: if it should, put it in [web] hosts"
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        if not same_site(headers):
            return 403, "a page of another site may not send this: only programs and this server's own pages may"
        if headers.get("content-type", "").partition(";")[0].strip().lower() in _FORM_TYPES:
            return 415, "expected application/json"
        return None


def same_site(headers: Headers) -> bool:
    """Returns whether a request comes from a page of the same origin, or from a program that is not a browser."""
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()


def host_name(host: str) -> str:
    """Returns the name or address in a Host header, in lower case, without port and brackets."""
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
