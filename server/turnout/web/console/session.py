"""Who may change things from the console: whoever knows the control token.

The token is typed once and never stored: the cookie holds a name and an expiry under an HMAC whose key is drawn when
the server starts, so that a restart signs everybody out. The cookie is SameSite=Strict and HttpOnly, and a change has
to come from a page of this very origin.
"""

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "turnout_console"
_SECONDS = 8 * 3600
_MAX_NAME = 64
_MAX_COOKIE = 1024


class Sessions:
    """Signs people in and out. Holds no state but its key."""

    def __init__(self, token: str, now: Callable[[], float] = time.time) -> None:
        """Prepares.

        Args:
            token: Whoever knows it may change things; "" where nobody may.
            now: The clock, seconds since 1970.
        """
        self._token = hashlib.sha256(token.encode()).digest() if token else b""
        self._key = secrets.token_bytes(32)
        self._now = now

    @property
    def possible(self) -> bool:
        """Whether anybody can sign in."""
        return bool(self._token)

    def sign_in(self, name: str, token: str, response: Response, *, secure: bool) -> bool:
        """Puts a session into `response` if the token is the right one.

        Args:
            name: Who acts, for the record.
            token: As it was typed.
            response: That carries the cookie.
            secure: The page came over HTTPS.
        """
        given = hashlib.sha256(token.encode()).digest()
        if not self._token or not hmac.compare_digest(given, self._token):
            return False
        text = f"{int(self._now()) + _SECONDS}:{actor_name(name)}".encode()
        value = f"{urlsafe_b64encode(text).decode()}.{self._signature(text)}"
        response.set_cookie(
            COOKIE, value, max_age=_SECONDS, path="/console", httponly=True, samesite="strict", secure=secure
        )
        return True

    def sign_out(self, response: Response) -> None:
        """Takes the session away."""
        response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")

    def actor(self, request: Request) -> str | None:
        """Returns who acts; None where nobody is signed in."""
        cookie = request.cookies.get(COOKIE, "")
        if not self._token or len(cookie) > _MAX_COOKIE:
            return None
        encoded, _, signature = cookie.partition(".")
        try:
            text = urlsafe_b64decode(encoded.encode())
        except ValueError:
            return None
        # Bytes: what compares text raises where it is not ASCII, and a cookie may hold anything.
        if not hmac.compare_digest(self._signature(text).encode(), signature.encode()):
            return None
        expires, _, name = text.decode().partition(":")
        return name if int(expires) > self._now() else None

    def _signature(self, text: bytes) -> str:
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def actor_name(text: str) -> str:
    """Returns a name fit for records and logs: one line, nothing that a terminal would obey, never empty."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain[:_MAX_NAME].rstrip() or "console"


def same_origin(request: Request) -> bool:
    """Tells whether a request that changes something comes from a page of this server.

    Browsers say so in Origin, and the newer ones in Sec-Fetch-Site, which a change of scheme makes another site too.
    """
    origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
    site = request.headers.get("sec-fetch-site", "same-origin")
    return bool(host) and origin in (f"http://{host}", f"https://{host}") and site == "same-origin"


def over_https(request: Request) -> bool:
    """Tells whether the browser speaks HTTPS, to a proxy in front of us too: by what the page's origin is."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
