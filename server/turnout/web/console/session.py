"""Sessions of the console. Users sign in with the console's token or a token of `[auth]`.

The token itself is not stored. The session cookie has an expiry, the session's id and the user's name, signed by HMAC
with a key that is generated when the server starts, so a restart signs out all users. For a token of `[auth]` the
cookie has the token's id, so revoking the token ends its sessions. Signing out ends a session for copies of its cookie,
too. The cookie is SameSite=Strict and HttpOnly, and changes are accepted only from pages of the same origin.
"""

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from turnout.auth.authority import Authority
from turnout.auth.caller import Caller
from turnout.auth.credentials.tokens import id_of
from turnout.auth.roles import AccessRole
from turnout.auth.sign_in_throttle import SignInThrottle
from turnout.errors import UnauthenticatedError
from turnout.web.authorization import caller_of
from turnout.web.console.ended_sessions import EndedSessions

COOKIE = "turnout_console"
_SECONDS = 8 * 3600
_MAX_NAME = 64
_MAX_COOKIE = 1024
_MOST_TYPED = 4096
_BY_CONSOLE, _BY_TOKEN = "c", "t"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A signed-in user.

    Attributes:
        name: Displayed name: the name that was entered with the console's token, or else the identity.
        actor: Authenticated identity, for the log.
        caller: The caller, with its permissions; None if `[auth]` is not enabled, when all users may do everything.
    """

    name: str
    actor: str
    caller: Caller | None = None

    def operates(self, model: str) -> bool:
        """Returns whether the user may change a model's rollouts."""
        return self.caller is None or self.caller.may(AccessRole.OPERATE, model)


class _Session(NamedTuple):
    """What a cookie says: `held` is a name or the id of a token, according to `kind`."""

    expires: int
    id: str
    kind: str
    held: str


class Sessions:
    """Signs users in and out. The only state is the signing key, recent failures and ended sessions.

    Attributes:
        authority: Authenticates tokens of `[auth]`; None if `[auth]` is not enabled.
        throttle: Limits the rate of sign-ins after failures, against guessing.
    """

    def __init__(
        self, token: str, ended: EndedSessions, authority: Authority | None = None, key: bytes = b"", share: int = 1
    ) -> None:
        """Prepares. `token` is the console's own; "" if there is none.

        `share` processes that have the same `key` know each other's sessions, and divide the limit on the failed
        sign-ins of all addresses together among them.
        """
        self.authority = authority
        self.throttle = SignInThrottle(share)
        self._ended = ended
        self._token = hashlib.sha256(token.encode()).digest() if token else b""
        self._key = key or secrets.token_bytes(32)

    @property
    def possible(self) -> bool:
        """Whether it is possible to sign in."""
        return bool(self._token) or self.authority is not None

    def sign_in(self, name: str, token: str, response: Response, *, secure: bool) -> str | None:
        """Starts a session if the token is valid, and returns its actor; returns None if the token is not valid.

        The cookie is set in `response`; `secure` says whether the page was loaded over HTTPS.
        """
        ends = int(time.time()) + _SECONDS
        given = hashlib.sha256(token.encode()).digest()
        if self._token and hmac.compare_digest(given, self._token):
            whose, held = actor_name(name), f"{_BY_CONSOLE}:{actor_name(name)}"
        else:
            caller = self._bearer(token)
            if caller is None:
                return None
            whose, held = caller.identity.actor, f"{_BY_TOKEN}:{id_of(token)}"
            ends = int(min(ends, caller.expires))
        text = f"{ends}:{secrets.token_hex(16)}:{held}".encode()
        value = f"{urlsafe_b64encode(text).decode()}.{self._signature(text)}"
        response.set_cookie(
            COOKIE, value, max_age=_SECONDS, path="/console", httponly=True, samesite="strict", secure=secure
        )
        return whose

    async def sign_out(self, request: Request, response: Response) -> None:
        """Ends the session of a request, for all copies of its cookie, and deletes the cookie in `response`.

        Raises:
            UnavailableError: As for `EndedSessions.add`.
        """
        if (session := self._signed(request)) is not None:
            await self._ended.add(session.id, session.expires)
        response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")

    def caller(self, request: Request) -> Caller | None:
        """Returns the signed-in caller; None if there is no session or `[auth]` is not enabled."""
        if self.authority is None or (session := self._session(request)) is None:
            return None
        by_console = session.kind == _BY_CONSOLE
        return self.authority.of_console() if by_console else self.authority.of_token_id(session.held)

    def visitor(self, request: Request) -> Visitor | None:
        """Returns the signed-in user; None if there is none."""
        session = self._session(request)
        if self.authority is None:
            return Visitor(session.held, session.held) if session is not None else None
        caller = caller_of(request.scope)
        if caller is None or caller.identity.anonymous:
            return None
        actor = caller.identity.actor
        if session is not None and session.kind == _BY_CONSOLE and actor == "console":
            return Visitor(session.held, actor, caller)
        return Visitor(actor, actor, caller)

    def _bearer(self, token: str) -> Caller | None:
        if self.authority is None or len(token) > _MOST_TYPED or id_of(token) is None:
            return None
        try:
            return self.authority.of_token(token)
        except UnauthenticatedError:
            return None

    def _session(self, request: Request) -> _Session | None:
        """Returns the session of a request; None if it has none, or one that has ended."""
        session = self._signed(request)
        return None if session is None or session.id in self._ended else session

    def _signed(self, request: Request) -> _Session | None:
        """Returns what the cookie says; None if it is missing, was not made here or has expired."""
        cookie = request.cookies.get(COOKIE, "")
        if not self.possible or len(cookie) > _MAX_COOKIE:
            return None
        encoded, _, signature = cookie.partition(".")
        try:
            text = urlsafe_b64decode(encoded.encode())
        except ValueError:
            return None
        # Compare bytes, since compare_digest raises for non-ASCII text, which a cookie may contain.
        if not hmac.compare_digest(self._signature(text).encode(), signature.encode()):
            return None
        expires, *rest = text.decode().split(":", 3)
        return _Session(int(expires), *rest) if int(expires) > time.time() else None

    def _signature(self, text: bytes) -> str:
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def actor_name(text: str) -> str:
    """Returns a name that is safe in records and logs: one line, without control characters, never empty."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain[:_MAX_NAME].rstrip() or "console"


def same_origin(request: Request) -> bool:
    """Returns whether a request comes from a page of this server.

    Browsers send Origin; newer ones also send Sec-Fetch-Site, which treats a different scheme as a different site.
    """
    origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
    site = request.headers.get("sec-fetch-site", "same-origin")
    return bool(host) and origin in (f"http://{host}", f"https://{host}") and site == "same-origin"


def over_https(request: Request) -> bool:
    """Returns whether the browser uses HTTPS, to this server or to a proxy in front of it."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
