"""The method of the control service that reports how shadows compare with the baseline."""

from turnout.errors import InvalidRequest
from turnout.routing.shadow.service import Shadows
from turnout.rpc.control.messages import shadow_message
from turnout.rpc.control.pooled import pooled_shadows
from turnout.serving.versions.catalog import Catalog
from turnout.workers.peers import Peers
from turnout_proto.v1 import traffic_pb2 as pb

_MAX_WORST = 100


class ShadowMethods:
    """Reports how shadows compare with the baseline."""

    def __init__(self, catalog: Catalog, shadows: Shadows, peers: Peers | None) -> None:
        self._catalog = catalog
        self._shadows = shadows
        self._peers = peers
        if peers is not None:
            peers.answers("shadows", self._answer_shadows)

    async def GetShadowReport(self, request: pb.GetShadowReportRequest) -> pb.GetShadowReportResponse:
        """Returns the reports of a model's shadows."""
        if request.worst > _MAX_WORST:
            raise InvalidRequest.at("worst", f"expected at most {_MAX_WORST}")
        self._catalog.snapshot.model(request.model)
        reports = self._reports(request)
        if self._peers is not None:
            replies = await self._peers.ask("shadows", request.SerializeToString())
            others = [
                report for one in replies.values() for report in pb.GetShadowReportResponse.FromString(one).shadows
            ]
            reports = pooled_shadows(reports, others, request.worst)
        return pb.GetShadowReportResponse(shadows=reports)

    async def _answer_shadows(self, body: bytes) -> bytes:
        reports = self._reports(pb.GetShadowReportRequest.FromString(body))
        return pb.GetShadowReportResponse(shadows=reports).SerializeToString()

    def _reports(self, request: pb.GetShadowReportRequest) -> list[pb.ShadowReport]:
        return [shadow_message(lane, request.worst) for lane in self._shadows.of(request.model)]
