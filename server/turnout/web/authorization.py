"""Authenticates and authorizes HTTP requests, before a route's code runs and before the body is read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from turnout.auth.authority import Authority
from turnout.auth.caller import Caller
from turnout.auth.policy.permissions import PUBLIC, ROUTES, Need, ResourceKind, need_of
from turnout.errors import MODEL_SEEN, TurnoutError, UnauthenticatedError

_KEY = "turnout.caller"

Session = Callable[[Request], Caller | None]
"""A function that returns the caller who is signed in to the console; None if there is no session."""

Refuse = Callable[[Request, TurnoutError], Response]
"""A function that returns the response to a rejected request."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """Where a request comes from, and its credentials."""

    scope: Scope

    @property
    def authorization(self) -> str:
        """The `authorization` header; "" if there is none. Raises UnauthenticatedError if there are several."""
        given = [value for name, value in self.scope["headers"] if name == b"authorization"]
        if len(given) > 1:
            raise UnauthenticatedError("expected one Authorization header")
        return given[0].decode("latin-1") if given else ""

    @property
    def certificate(self) -> str:
        """The client's certificate in PEM format; "" if there is none."""
        chain = self.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
        return str(chain[0]) if chain else ""

    @property
    def host(self) -> str:
        """The caller's IP address; "" if it has none."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""


def caller_of(scope: Scope) -> Caller | None:
    """Returns the caller of a request; None if authentication is off or the caller is not known."""
    found: Caller | None = scope.get(_KEY)
    return found


def protect(
    routes: Iterable[BaseRoute],
    authority: Authority | None,
    refuse: Callable[[str], Refuse],
    session: Session = lambda _: None,
    *,
    anonymous_metrics: bool = False,
) -> list[BaseRoute]:
    """Wraps routes so that each call is authenticated and authorized.

    The routes are changed in place. Without an authority, `[auth]` is not enabled. `refuse` returns the function that
    responds to rejected requests, given a route's path.

    Raises:
        LookupError: A route has no entry in the table of permissions, or is not a plain route.
    """
    protected = list(routes)
    for route in protected:
        path = getattr(route, "path", "")
        need = need_of(ROUTES, path)
        if not isinstance(route, Route):
            raise LookupError(f"{path} is not a plain route, which nothing protects")
        if authority is not None:
            need = PUBLIC if anonymous_metrics and path == "/metrics" else need
            asked = session if path.startswith("/console") else None
            route.app = _Protected(route.app, path, need, authority, refuse(path), asked)
    return protected


class _Protected:
    """ASGI middleware that authenticates and authorizes the requests of one route."""

    def __init__(
        self, application: ASGIApp, path: str, need: Need, authority: Authority, refuse: Refuse, session: Session | None
    ) -> None:
        self._application = application
        self._path = path
        self._need = need
        self._authority = authority
        self._refuse = refuse
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authority = self._authority
        try:
            caller = await self._caller(scope)
            scope[_KEY] = caller
            if self._need.kind is ResourceKind.PUBLIC or caller is None:
                return await self._application(scope, receive, send)
            self._check(caller, scope)
            quota = authority.enter(caller)
        except TurnoutError as error:
            return await self._refuse(Request(scope), error)(scope, receive, send)
        MODEL_SEEN.set(caller.seen)
        try:
            return await self._application(scope, receive, send)
        finally:
            if quota is not None:
                quota.leave()

    async def _caller(self, scope: Scope) -> Caller | None:
        """Returns the caller. Raises UnauthenticatedError if valid credentials are required but missing."""
        public = self._need.kind is ResourceKind.PUBLIC
        if public and self._session is None and not self._need.roles:
            return None
        try:
            call = HttpCall(scope)
            if self._session is not None and not call.authorization:
                found = self._session(Request(scope))
                if found is not None:
                    return found
            return await self._authority.identify(call)
        except UnauthenticatedError:
            if public:
                return None
            raise

    def _check(self, caller: Caller, scope: Scope) -> None:
        need, authority, call = self._need, self._authority, HttpCall(scope)
        if need.kind is ResourceKind.MODEL:
            model = scope["path_params"]["model"].partition("@")[0]  # load and unload requests have NAME@VERSION here
            authority.check(caller, need.roles, model, self._path, call)
            if need.audited:
                authority.permitted(caller, model, self._path, call)
        elif need.kind is ResourceKind.SETTING:
            model, changes = scope["path_params"].get("model", ""), scope["method"] not in ("GET", "HEAD")
            authority.check_setting(caller, need, model, self._path, call, changes=changes)
        else:
            authority.check_need(caller, need, self._path, call)
