"""The console's forms: sign-in, sign-out, and the commands to a rollout, which are the same as in the CLI."""

import math
import re
import time
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from structlog.typing import FilteringBoundLogger

from turnout.auth.actor_remark import with_remark
from turnout.errors import InvalidRequest, PermissionDeniedError, TurnoutError
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.machine import overrides
from turnout.rollout.machine.actors import check_person
from turnout.telemetry.metrics.auth import RefusalReason
from turnout.web.console.pages import Pages, attempt_of
from turnout.web.console.rendering import HEADERS, page
from turnout.web.console.session import Sessions, Visitor, actor_name, over_https, same_origin
from turnout.workers.peers import Peers

_MAX_REASON = 1024
"""Maximum length of a reason in bytes: the limit of the state store."""

_MAX_BODY = 16 << 10
_MAX_EPOCH_DIGITS = 18

_INSIDE = re.compile(r"/console(/(?!\.{1,2}(/|$))[A-Za-z0-9_~+.-]+)*")
"""Paths that a sign-in may redirect to: only those of the console."""


class Actions:
    """Handles posted forms. Responses redirect to the page with the result, or explain why the form was rejected."""

    def __init__(
        self,
        rollouts: RolloutEngine,
        pages: Pages,
        sessions: Sessions,
        log: FilteringBoundLogger,
        refused: dict[str, int],
        peers: Peers | None,
    ) -> None:
        self._rollouts = rollouts
        self._pages = pages
        self._sessions = sessions
        self._log = log
        self._refused = refused
        self._peers = peers

    async def command(self, request: Request) -> Response:
        """Applies an operator's command to a rollout. It is in force in every worker when the response is sent."""
        back = ""
        try:
            visitor, model = self._permitted(request), request.path_params["model"]
            actor, attempt = visitor.actor, attempt_of(request)
            command = request.path_params["command"]
            fields = await _form(request)
            reason = fields.get("reason", "").strip()
            if len(reason.encode()) > _MAX_REASON:
                raise InvalidRequest.at("reason", f"expected at most {_MAX_REASON} bytes")
            reason = with_remark(reason, visitor.name, actor)
            decisions = overrides.commands(actor, reason)
            if command not in decisions:
                raise InvalidRequest.at("command", f"expected one of {', '.join(decisions)}")
            epoch = _epoch(fields.get("epoch", ""))
            back = f"/console/models/{model}/rollouts/{attempt}"
            await self._rollouts.commands.command(
                model, decisions[command], epoch, attempt=attempt, resume=command == "resume"
            )
            if self._peers is not None:
                await self._peers.follow()
        except TurnoutError as error:
            return self._pages.problem(request, error, back)
        return RedirectResponse(back, 303, HEADERS)

    async def sign_in(self, request: Request) -> Response:
        """Shows the sign-in form (GET), or signs the user in if the token is valid (POST)."""
        possible, name, failed, wait = self._sessions.possible, "", False, 0
        following = request.query_params.get("next", "")
        if request.method == "POST":
            if not same_origin(request):
                raise PermissionDeniedError("a sign-in has to come from the console's own page")
            fields = await _form(request)
            goal = following if _INSIDE.fullmatch(following) else "/console"
            response = RedirectResponse(goal, 303, HEADERS)
            name, token = fields.get("name", ""), fields.get("token", "")
            host, throttle = request.client.host if request.client is not None else "", self._sessions.throttle
            wait = math.ceil(throttle.wait(host, time.monotonic()))
            if wait:
                self._refused[RefusalReason.SIGN_IN_THROTTLED] += 1
            elif whose := self._sessions.sign_in(name, token, response, secure=over_https(request)):
                throttle.succeeded(host)
                self._log.info("console sign-in", actor=whose, client=host)
                return response
            else:
                throttle.failed(host, time.monotonic())
                self._refused[RefusalReason.SIGN_IN] += 1
                self._log.warning("console sign-in refused", actor=actor_name(name), client=host)
            failed = True
        status = 429 if wait else 403 if failed else 200
        form = page(
            "sign_in.html", request, status, actor=None, possible=possible, failed=failed, wait=wait, name=name[:64],
            tokens=self._sessions.authority is not None,
        )  # fmt: skip
        if wait:
            form.headers["Retry-After"] = str(wait)
        return form

    async def sign_out(self, request: Request) -> Response:
        """Ends the session."""
        if not same_origin(request):
            raise PermissionDeniedError("a sign-out has to come from the console's own page")
        response = RedirectResponse("/console", 303, HEADERS)
        await self._sessions.sign_out(request, response)
        return response

    def _permitted(self, request: Request) -> Visitor:
        visitor = self._sessions.visitor(request)
        if visitor is None:
            raise PermissionDeniedError("sign in with the console token first")
        if not same_origin(request):
            raise PermissionDeniedError("a change has to come from the console's own page")
        check_person(visitor.actor, "name")
        return visitor


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise InvalidRequest.at("body", f"expected at most {_MAX_BODY} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise InvalidRequest.at("body", "expected a form") from error


def _epoch(text: str) -> int:
    """Parses the epoch that the page showed. Commands from outdated pages are rejected."""
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_EPOCH_DIGITS:
        raise InvalidRequest.at("epoch", "expected the rollout's epoch")
    return int(text)
