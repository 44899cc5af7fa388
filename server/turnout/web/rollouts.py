"""`/v1/rollouts`: the state of a model's rollouts, for other systems such as delivery pipelines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from turnout.errors import InvalidRequest, NotFoundError
from turnout.rollout.machine.status import Verdict, status
from turnout.rollout.reporting.log import RolloutLog

_SEARCHED = 100
"""Maximum number of attempts to search for the latest rollout of a candidate."""

CHECKS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "started": ("has begun", lambda verdict: True),
    "healthy": ("is not rejected and goes on", lambda v: v in (Verdict.UNDECIDED, Verdict.ACCEPTED)),
    "accepted": ("is accepted", lambda v: v == Verdict.ACCEPTED),
    "rejected": ("is rejected", lambda v: v == Verdict.REJECTED),
}
"""Checks by name: the text of the condition, and a function that tests a rollout's verdict."""


class RolloutEndpoints:
    """Read-only endpoints for the state of rollouts."""

    def __init__(self, log: RolloutLog) -> None:
        self._log = log

    async def show(self, request: Request) -> Response:
        """Returns the state of a rollout: the latest of the model or of `?candidate=`, or the attempt `?attempt=`."""
        return JSONResponse(await self._status(request), headers=_FRESH)

    async def check(self, request: Request) -> Response:
        """Returns 200 if a check passes, else 409, for webhooks that evaluate only the status.

        The request's body is ignored.
        """
        name = request.path_params["check"]
        if name not in CHECKS:
            raise NotFoundError(f"expected one of the checks {', '.join(CHECKS)}, got {name[:64]!r}")
        found = await self._status(request)
        words, passes = CHECKS[name]
        passed = passes(found["verdict"])
        body = {"check": name, "passed": passed, "meaning": f"{found['candidate']} {words}", "rollout": found}
        return JSONResponse(body, 200 if passed else 409, headers=_FRESH)

    async def _status(self, request: Request) -> Mapping[str, Any]:
        model, query = request.path_params["model"], request.query_params
        attempt = _attempt(query["attempt"]) if "attempt" in query else 0
        candidate = query.get("candidate", "")
        if attempt or not candidate:
            record, rollout = await self._log.found(model, attempt)
            return status(rollout, record)
        for record, rollout in await self._log.history(model, _SEARCHED):
            if (found := status(rollout, record))["candidate"] == candidate:
                return found
        raise NotFoundError(f"{model} has had no rollout of {candidate[:64]!r}")


_FRESH = {"Cache-Control": "no-store"}


def _attempt(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise InvalidRequest.at("attempt", f"expected a number from 1, got {text[:64]!r}")
    return int(text)


def rollout_routes(log: RolloutLog) -> Sequence[Route]:
    """Returns the routes."""
    endpoints = RolloutEndpoints(log)
    return [
        Route("/v1/rollouts/{model}", endpoints.show),
        Route("/v1/rollouts/{model}/checks/{check}", endpoints.check, methods=["GET", "POST"]),
    ]
