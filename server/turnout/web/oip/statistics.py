"""Triton's statistics extension over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from turnout.oip.extensions.statistics import Statistics
from turnout.web.oip.endpoints import route, sees
from turnout_proto.oip.inference_pb2 import InferStatistics, ModelStatistics, StatisticDuration

_COMPUTE = ("compute_input", "compute_infer", "compute_output")


class StatisticsEndpoints:
    """Endpoints for the statistics of versions."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def routes(self) -> Sequence[Route]:
        """Returns the routes."""
        paths = ("/v2/models/stats", "/v2/models/{model}/stats", "/v2/models/{model}/versions/{selector}/stats")
        return [route(path, "GET", answer=self.statistics) for path in paths]

    async def statistics(self, request: Request) -> Mapping[str, Any]:
        """Returns statistics of one version, all loaded versions of a model, or all models that the caller may see."""
        model, selector = (request.path_params.get(name, "") for name in ("model", "selector"))
        found = (await self._statistics.of(model, selector)).model_stats
        seen = (lambda _: True) if model else sees(request)
        return {"model_stats": [statistics_document(one) for one in found if seen(one.name)]}


def statistics_document(statistics: ModelStatistics) -> Mapping[str, Any]:
    """Returns a version's statistics in Triton's JSON form."""
    batches = statistics.batch_stats
    return {
        "name": statistics.name,
        "version": statistics.version,
        "last_inference": statistics.last_inference,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": _durations(statistics.inference_stats, [f.name for f in InferStatistics.DESCRIPTOR.fields]),
        "response_stats": {},
        "batch_stats": [{"batch_size": batch.batch_size, **_durations(batch, _COMPUTE)} for batch in batches],
        "memory_usage": [
            {"type": usage.type, "id": usage.id, "byte_size": usage.byte_size} for usage in statistics.memory_usage
        ],
    }


def _durations(holder: Any, names: Sequence[str]) -> dict[str, Any]:
    def duration(one: StatisticDuration) -> dict[str, int]:
        return {"count": one.count, "ns": one.ns}

    return {name: duration(getattr(holder, name)) for name in names}
