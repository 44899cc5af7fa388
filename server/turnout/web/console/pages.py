"""The console's pages and the numbers behind its charts. Reads, and changes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from semver import Version
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from turnout.errors import InvalidRequest, NotFound, TurnoutError
from turnout.registry.names import parse_version
from turnout.rollout.controller import Rollouts
from turnout.rollout.told import rollout_message
from turnout.routing.applied import Policies
from turnout.routing.explain import Explainer
from turnout.routing.shadow.service import Shadows
from turnout.serving.catalog import Catalog, ModelEntry, VersionEntry
from turnout.web.console.recent import Recent
from turnout.web.console.rendering import HEADERS, page
from turnout.web.console.session import Sessions
from turnout.web.console.views import difference, model_view, neighbour
from turnout.web.errors import status_of
from turnout.web.report.page import plots
from turnout.web.report.replay import Replay
from turnout.web.report.words import explain

_MAX_TEXT = 512
_EVENTS = 200
_TICKS_AT_ONCE = 2000
_MOST_TICKS = 20_000

Handler = Callable[["Pages", Request], Awaitable[Response]]


def explained(handler: Handler) -> Handler:
    """Has a page say what is wrong where something is."""

    async def handle(self: "Pages", request: Request) -> Response:
        try:
            return await handler(self, request)
        except TurnoutError as error:
            return self.problem(request, error)

    return handle


class Pages:
    """Makes the pages out of the server's services. Used on the event loop only."""

    def __init__(
        self,
        catalog: Catalog,
        policies: Policies,
        shadows: Shadows,
        rollouts: Rollouts,
        explainer: Explainer,
        recent: Recent,
        sessions: Sessions,
    ) -> None:
        self._catalog = catalog
        self._policies = policies
        self._shadows = shadows
        self._rollouts = rollouts
        self._explainer = explainer
        self._recent = recent
        self.sessions = sessions

    def _page(self, template: str, request: Request, **context: Any) -> Response:
        actor, possible = self.sessions.actor(request), self.sessions.possible
        return page(template, request, actor=actor, possible=possible, **context)

    def problem(self, request: Request, error: TurnoutError) -> Response:
        """Says what is wrong."""
        actor, possible = self.sessions.actor(request), self.sessions.possible
        status = status_of(error)
        return page("problem.html", request, status, actor=actor, possible=possible, message=error.message)

    @explained
    async def overview(self, request: Request) -> Response:
        """All models, and the rollouts that run."""
        models = [
            model_view(known, self._policies, self._recent.of(name))
            for name, known in self._catalog.snapshot.models.items()
        ]
        rollouts = [driven.rollout for driven in self._rollouts.driven]
        return self._page("overview.html", request, models=models, rollouts=rollouts)

    @explained
    async def model(self, request: Request) -> Response:
        """One model: versions side by side, the traffic split, the last hour, and its rollouts."""
        known = self._model(request)
        view = model_view(known, self._policies, self._recent.of(known.name))
        history = await self._rollouts.log.history(known.name, 20)
        lanes = [(lane.pair, lane.ledger.agreement) for lane in self._shadows.of(known.name)]
        return self._page("model.html", request, model=view, history=history, lanes=lanes)

    @explained
    async def version(self, request: Request) -> Response:
        """One version: its card, and how it differs from another."""
        known = self._model(request)
        entry = _version(known, request.path_params["version"])
        named = _text(request, "with")
        other = parse_version(named) if named else neighbour(known, entry.version)
        held = difference(entry, _version(known, str(other))) if other is not None else None
        row = next(r for r in model_view(known, self._policies, {}).versions if r.entry is entry)
        return self._page("version.html", request, known=known, row=row, held=held)

    @explained
    async def rollout(self, request: Request) -> Response:
        """One rollout: where it stands and why, its evidence and what happened."""
        known = self._model(request)
        replay = await self._replay(known.name, _attempt(request))
        return self._page("rollout.html", request, said=explain(replay), rollout=replay.rollout, plan=replay.plan)

    @explained
    async def shadow(self, request: Request) -> Response:
        """A model's shadows, and the requests that they answered most differently."""
        known = self._model(request)
        return self._page("shadow.html", request, name=known.name, lanes=self._shadows.of(known.name))

    @explained
    async def route(self, request: Request) -> Response:
        """How a request would be routed, step by step."""
        known = self._model(request)
        selector, key = _text(request, "selector"), _text(request, "key")
        only = request.query_params.get("baseline_only") == "1"
        problem, explanation = "", None
        try:
            explanation = self._explainer.explain(known.name, selector, key, baseline_only=only)
        except InvalidRequest as error:
            problem = error.message
        return self._page(
            "route.html", request, name=known.name, selector=selector, key=key, only=only, problem=problem,
            explanation=explanation,
        )  # fmt: skip

    async def series(self, request: Request) -> Response:
        """The last hour of a model's versions, as JSON."""
        recent = self._recent.of(request.path_params["model"])
        times = sorted({point.time for points in recent.values() for point in points})
        versions = {}
        for version, points in recent.items():
            at = {point.time: point for point in points}
            row = [at.get(time) for time in times]
            versions[version] = {
                name: [None if p is None else getattr(p, name) for p in row]
                for name in ("rate", "failures", "p50", "p99")
            }
        return JSONResponse({"times": times, "versions": versions}, headers=HEADERS)

    async def plots(self, request: Request) -> Response:
        """What a rollout's plots draw, as JSON."""
        try:
            replay = await self._replay(self._model(request).name, _attempt(request))
        except TurnoutError as error:
            return JSONResponse({"error": error.message}, 404, headers=HEADERS)
        return JSONResponse(plots(replay), headers=HEADERS)

    async def _replay(self, model: str, attempt: int) -> Replay:
        log = self._rollouts.log
        record, rollout = await log.latest(model, attempt)
        message = rollout_message(rollout, record, await log.events(model, attempt, _EVENTS))
        told: list[tuple[datetime, dict[str, Any]]] = []
        after = 0
        while len(told) < _MOST_TICKS:
            ticks = await log.ticks(model, attempt, after, _TICKS_AT_ONCE)
            told += [(when, body) for _, when, body in ticks]
            if len(ticks) < _TICKS_AT_ONCE:
                break
            after = ticks[-1][0]
        return await asyncio.to_thread(Replay.replayed, message, told)

    def _model(self, request: Request) -> ModelEntry:
        return self._catalog.snapshot.model(request.path_params["model"])


def _version(known: ModelEntry, text: str) -> VersionEntry:
    wanted: Version = parse_version(text)
    entry = known.versions.get(wanted)
    if entry is None:
        raise NotFound(f"{known.name} has no version {wanted}")
    return entry


def _attempt(request: Request) -> int:
    return int(request.path_params["attempt"])


def _text(request: Request, name: str) -> str:
    text = request.query_params.get(name, "").strip()
    if len(text) > _MAX_TEXT:
        raise InvalidRequest.at(name, f"expected at most {_MAX_TEXT} characters")
    return text
