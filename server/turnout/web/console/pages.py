"""The console's pages and the data of its charts. Read-only."""

from collections.abc import Mapping, Sequence
from typing import Any

from semver import Version
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from turnout.auth.roles import SERVER
from turnout.errors import InvalidRequest, NotFoundError, TurnoutError, UnavailableError
from turnout.registry.manifest.names import parse_version
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.records import UnreadableRollout
from turnout.routing.shadow.service import Shadows
from turnout.serving.versions.catalog import ModelEntry, VersionEntry
from turnout.state.rollouts import RolloutRecord
from turnout.web.authorization import caller_of
from turnout.web.console.comparison import VersionComparison
from turnout.web.console.rendering import HEADERS, page
from turnout.web.console.rollout_history import TrackedRollouts
from turnout.web.console.session import Sessions
from turnout.web.console.stages import reach, stages
from turnout.web.console.views import ModelViews, OverviewTotals, colours_of, difference, neighbour
from turnout.web.errors import status_of
from turnout.web.report.explain import explain
from turnout.web.report.page import plots as plot_data

_MAX_TEXT = 512
_MOST_DIGITS = 9
_HISTORY = 20


class Pages:
    """Renders the pages from the server's services. Used on the event loop only."""

    def __init__(
        self,
        models: ModelViews,
        shadows: Shadows,
        rollouts: RolloutEngine,
        tracked: TrackedRollouts,
        comparison: VersionComparison,
        sessions: Sessions,
    ) -> None:
        self._models = models
        self._shadows = shadows
        self._rollouts = rollouts
        self._tracked = tracked
        self._comparison = comparison
        self.sessions = sessions

    def _page(self, template: str, request: Request, status: int = 200, **context: Any) -> Response:
        visitor = self.sessions.visitor(request)
        actor = None if visitor is None else visitor.name
        return page(template, request, status, actor=actor, possible=self.sessions.possible, **context)

    def problem(self, request: Request, error: TurnoutError, back: str = "") -> Response:
        """Returns an error page. It links to the page `back`; "" for only the list of models."""
        again = request.method == "GET" and isinstance(error, UnavailableError)
        return self._page("problem.html", request, status_of(error), message=error.message, back=back, again=again)

    async def overview(self, request: Request) -> Response:
        """Shows all models and the active rollouts."""
        caller = caller_of(request.scope)  # None if authentication is off: all models are shown
        known = self._models.catalog.snapshot.models.values()
        models = [self._models.view(one) for one in known if caller is None or caller.sees(one.name)]
        running = [one for one in self._rollouts.running if caller is None or caller.sees(one.model)]
        return self._page(
            "overview.html",
            request,
            models=models,
            sums=OverviewTotals.of(models),
            rollouts=running,
            colours=self._colours(running),
            reach=reach,
            servers=self._rollouts.servers if caller is None or caller.sees(SERVER) else (),
            answered_by=self._rollouts.server,
        )

    async def model(self, request: Request) -> Response:
        """Shows a model: its traffic split, versions, last hour, and rollouts."""
        known = self._model(request)
        history: Sequence[tuple[RolloutRecord, Rollout]] = ()
        trouble, unread = "", list[str]()
        try:
            found = await self._tracked.log.history(known.name, _HISTORY)
            history = [(record, rollout) for record, rollout in found if isinstance(rollout, Rollout)]
            unread = [one.sentence for _, one in found if isinstance(one, UnreadableRollout)]
        except TurnoutError as error:
            trouble = error.message  # the rest of the page does not need the state store
        view = self._models.view(known)
        lanes = [(lane.pair, lane.ledger) for lane in self._shadows.of(known.name)]
        running = [r for r in self._rollouts.running if r.model == known.name]
        named = {str(v) for r in (*running, *(r for _, r in history)) for v in (r.candidate, r.previous)}
        named |= {share.version for share in view.split}
        return self._page(
            "model.html",
            request,
            model=view,
            history=history,
            trouble=trouble,
            unread=unread,
            lanes=lanes,
            running=running,
            colours=colours_of(known, *named),
            reach=reach,
            part=self._models.part,
        )

    async def version(self, request: Request) -> Response:
        """Shows a version, and how it differs from another one."""
        known = self._model(request)
        entry = _version(known, request.path_params["version"])
        named = _text(request, "with")
        other = _version(known, named) if named else None
        if other is None or other is entry:
            beside = neighbour(known, entry.version)
            other = known.versions[beside] if beside is not None else None
        held = None
        if other is not None:
            old, new = sorted((entry, other), key=lambda one: one.version)
            held = difference(old, new, await self._comparison.of(new, old, examine=bool(named)))
        row = next(r for r in self._models.view(known).versions if r.entry is entry)
        return self._page("version.html", request, known=known, row=row, held=held, colours=colours_of(known))

    async def rollout(self, request: Request) -> Response:
        """Shows a rollout: its state, evidence and events."""
        known = self._model(request)
        async with self._tracked.of(known.name, attempt_of(request)) as replay:
            rollout = replay.rollout
            stage_list, now = stages(replay.plan, rollout), self._rollouts.now.timestamp()
            ages = {probe.name: max(round(now - probe.time.seconds), 0) for probe in rollout.probes}
            explanation, visitor = explain(replay), self.sessions.visitor(request)
            acts = visitor is not None and visitor.operates(known.name)
            return self._page(
                "rollout.html",
                request,
                explanation=explanation,
                rollout=rollout,
                stages=stage_list,
                reach=reach,
                colours=colours_of(known, rollout.candidate, rollout.previous),
                ages=ages,
                acts=acts,
            )

    async def shadow(self, request: Request) -> Response:
        """Shows a model's shadows, with their worst disagreements."""
        known = self._model(request)
        lanes = self._shadows.of(known.name)
        pairs = [lane.pair for lane in lanes]
        colours = colours_of(known, *(str(v) for pair in pairs for v in (pair.shadow, pair.baseline)))
        return self._page("shadow.html", request, name=known.name, lanes=lanes, colours=colours, part=self._models.part)

    async def route(self, request: Request) -> Response:
        """Explains, step by step, how a request would be routed."""
        known = self._model(request)
        selector, key = _text(request, "selector"), _text(request, "key")
        only = request.query_params.get("baseline_only") == "1"
        problem, explanation = "", None
        try:
            explanation = self._models.explainer.explain(known.name, selector, key, baseline_only=only)
        except InvalidRequest as error:
            problem = error.message
        return self._page(
            "route.html", request, name=known.name, selector=selector, key=key, only=only, problem=problem,
            explanation=explanation, colours=colours_of(known),
        )  # fmt: skip

    async def series(self, request: Request) -> Response:
        """Returns the last hour of a model's versions that had requests, as JSON."""
        known = self._model(request)
        recent = self._models.recent.of(known.name)
        colours = colours_of(known, *recent)
        listed = [entry.version_text for entry in known.versions.values()]  # as in the table of versions
        order = [version for version in dict.fromkeys([*listed, *recent]) if version in recent]
        displayed = {v: recent[v] for v in order if any(point.rate for point in recent[v])}
        times = sorted({point.time for points in recent.values() for point in points})
        versions = {}
        for version, points in displayed.items():
            at = {point.time: point for point in points}
            row = [at.get(time) for time in times]
            versions[version] = {
                name: [None if p is None else _short(getattr(p, name)) for p in row]
                for name in ("rate", "failures", "p50", "p99")
            }
        body = {"times": [round(time, 1) for time in times], "versions": versions, "colours": colours}
        return JSONResponse(body, headers=HEADERS)

    async def plots(self, request: Request) -> Response:
        """Returns the data of a rollout's plots, as JSON."""
        known = self._model(request)
        async with self._tracked.of(known.name, attempt_of(request)) as replay:
            named = replay.rollout.candidate, replay.rollout.previous
            return JSONResponse(plot_data(replay, colours_of(known, *named)), headers=HEADERS)

    async def missing(self, request: Request) -> Response:
        """Returns the error page for an unknown path."""
        raise NotFoundError("the console has no such page")

    def _colours(self, running: Sequence[Rollout]) -> Mapping[str, Mapping[str, int]]:
        """Returns the colours of the versions of each model with an active rollout."""
        named = {r.model: {str(v) for v in (r.candidate, r.previous)} for r in running}
        return {model: self._models.colours(model, *versions) for model, versions in named.items()}

    def _model(self, request: Request) -> ModelEntry:
        return self._models.catalog.snapshot.model(request.path_params["model"])


def json_error(error: TurnoutError) -> Response:
    """Returns an error in JSON, for the console's scripts."""
    return JSONResponse({"error": error.message}, status_of(error), headers=HEADERS)


def attempt_of(request: Request) -> int:
    """Returns the attempt number in the path. Raises NotFoundError if the number is not valid."""
    text = request.path_params["attempt"]
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS or not int(text):
        raise NotFoundError(f"{request.path_params['model'][:64]} has had no rollout of that number: they count from 1")
    return int(text)


def _version(known: ModelEntry, text: str) -> VersionEntry:
    wanted: Version = parse_version(text)
    entry = known.versions.get(wanted)
    if entry is None:
        raise NotFoundError(f"{known.name} has no version {wanted}")
    return entry


def _text(request: Request, name: str) -> str:
    text = request.query_params.get(name, "").strip()
    if len(text) > _MAX_TEXT:
        raise InvalidRequest.at(name, f"expected at most {_MAX_TEXT} characters")
    return text


def _short(value: float | None) -> float | None:
    """Returns a number rounded to the precision of a chart, since an hour of 30 versions has 43,000 numbers."""
    return None if value is None else float(f"{value:.4g}")
