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
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "turnout_console"
_HOURS = 8
_MAX_NAME = 64


class Sessions:
    """Signs people in and out. Holds no state but its key."""

    def __init__(self, token: str) -> None:
        """Prepares.

        Args:
            token: Whoever knows it may change things; "" where nobody may.
        """
        self._token = hashlib.sha256(token.encode()).digest() if token else b""
        self._key = secrets.token_bytes(32)

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
        text = f"{int(time.time()) + _HOURS * 3600}:{name.strip()[:_MAX_NAME]}".encode()
        value = f"{urlsafe_b64encode(text).decode()}.{self._signature(text)}"
        response.set_cookie(
            COOKIE, value, max_age=_HOURS * 3600, path="/console", httponly=True, samesite="strict", secure=secure
        )
        return True

    def sign_out(self, response: Response) -> None:
        """Takes the session away."""
        response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")

    def actor(self, request: Request) -> str | None:
        """Returns who acts; None where nobody is signed in."""
        encoded, _, signature = request.cookies.get(COOKIE, "").partition(".")
        try:
            text = urlsafe_b64decode(encoded.encode())
        except ValueError:
            return None
        if not self._token or not hmac.compare_digest(self._signature(text), signature):
            return None
        expires, _, name = text.decode().partition(":")
        return (name or "console") if int(expires) > time.time() else None

    def _signature(self, text: bytes) -> str:
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def same_origin(request: Request) -> bool:
    """Tells whether a request that changes something comes from a page of this server."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host", "")
