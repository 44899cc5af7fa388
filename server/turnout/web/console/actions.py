"""What the console changes, for whoever has signed in: a rollout's course, by the same commands as everywhere."""

from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from turnout.errors import InvalidRequest, PermissionDenied, TurnoutError
from turnout.rollout import overrides
from turnout.rollout.attempt import Moved, Pause, Rollout
from turnout.rollout.controller import Rollouts
from turnout.web.console.pages import Pages
from turnout.web.console.rendering import HEADERS, page
from turnout.web.console.session import Sessions, same_origin

_MAX_REASON = 1024
_MAX_TOKEN = 1024
_MAX_BODY = 16 << 10

Decide = Callable[[Rollout], Moved]


def decision(command: str, actor: str, reason: str) -> Decide:
    """Returns what a button asks for.

    Raises:
        InvalidRequest: There is no such button.
    """
    decisions: dict[str, Decide] = {
        "pause": lambda r: overrides.pause(r, Pause("operator", reason or "paused by hand", actor), by_hand=True),
        "resume": lambda r: overrides.resume(r, actor, reason),
        "promote": lambda r: overrides.promote(r, actor, reason, full=False),
        "promote-full": lambda r: overrides.promote(r, actor, reason, full=True),
        "abort": lambda r: overrides.abort(r, reason or "aborted by hand", kind="abort", actor=actor),
    }
    if command not in decisions:
        raise InvalidRequest.at("command", f"expected one of {', '.join(decisions)}")
    return decisions[command]


class Actions:
    """Takes what is posted. Each answer is a redirect to the page that shows what came of it, or says why not."""

    def __init__(self, rollouts: Rollouts, pages: Pages, sessions: Sessions) -> None:
        self._rollouts = rollouts
        self._pages = pages
        self._sessions = sessions

    async def command(self, request: Request) -> Response:
        """Has an operator's word on a rollout."""
        try:
            actor = self._permitted(request)
            fields = await _form(request)
            reason = fields.get("reason", "").strip()
            if len(reason) > _MAX_REASON:
                raise InvalidRequest.at("reason", f"expected at most {_MAX_REASON} characters")
            model, attempt = request.path_params["model"], int(request.path_params["attempt"])
            command = request.path_params["command"]
            decide, epoch = decision(command, actor, reason), _epoch(fields.get("epoch", ""))
            await self._rollouts.command(model, decide, epoch, attempt=attempt, resume=command == "resume")
        except TurnoutError as error:
            return self._pages.problem(request, error)
        return RedirectResponse(f"/console/models/{model}/rollouts/{attempt}", 303, HEADERS)

    async def sign_in(self, request: Request) -> Response:
        """Signs somebody in who knows the control token; shows where to type it on a GET."""
        possible, failed = self._sessions.possible, False
        if request.method == "POST":
            try:
                if not same_origin(request):
                    raise PermissionDenied("a sign-in has to come from the console's own page")
                fields = await _form(request)
            except TurnoutError as error:
                return self._pages.problem(request, error)
            response = RedirectResponse("/console", 303, HEADERS)
            name, token = fields.get("name", ""), fields.get("token", "")[:_MAX_TOKEN]
            if self._sessions.sign_in(name, token, response, secure=request.url.scheme == "https"):
                return response
            failed = True
        return page("sign_in.html", request, 403 if failed else 200, actor=None, possible=possible, failed=failed)

    async def sign_out(self, request: Request) -> Response:
        """Takes the session away."""
        response = RedirectResponse("/console", 303, HEADERS)
        if same_origin(request):
            self._sessions.sign_out(response)
        return response

    def _permitted(self, request: Request) -> str:
        actor = self._sessions.actor(request)
        if actor is None:
            raise PermissionDenied("sign in with the control token first")
        if not same_origin(request):
            raise PermissionDenied("a change has to come from the console's own page")
        return actor


async def _form(request: Request) -> dict[str, str]:
    """Reads a small form; nothing of it is a file."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise InvalidRequest.at("body", f"expected at most {_MAX_BODY} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise InvalidRequest.at("body", "expected a form") from error


def _epoch(text: str) -> int:
    """Returns the epoch that the page showed: a button pressed on an old page is refused."""
    if not text.isascii() or not text.isdigit():
        raise InvalidRequest.at("epoch", "expected the rollout's epoch")
    return int(text[:18])
