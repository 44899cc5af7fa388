"""Methods of the control service for routing: policies, their history, and explanations."""

from collections.abc import Callable

from turnout.errors import InvalidRequest
from turnout.registry.manifest.names import parse_version
from turnout.routing.active_policies import Policies
from turnout.routing.default_answers import RoutingTable
from turnout.routing.explain import Explainer
from turnout.routing.policy import Canary
from turnout.routing.traffic import Traffic
from turnout.rpc.control.calls import read_change
from turnout.rpc.control.messages import (
    epoch_message,
    explanation_message,
    read_policy,
    read_share,
    state_message,
)
from turnout.rpc.control.pooled import pooled_traffic
from turnout.serving.versions.catalog import Catalog
from turnout.workers.peers import EachWorker, Peers
from turnout_proto.v1 import traffic_pb2 as pb

_MAX_KEY = 1024
_MAX_HISTORY = 1000


class TrafficMethods:
    """Shows and changes how requests are routed."""

    def __init__(
        self,
        traffic: Traffic,
        policies: Policies,
        catalog: Catalog,
        explainer: Explainer,
        answers: Callable[[str], RoutingTable],
        peers: Peers | None,
    ) -> None:
        self._traffic = traffic
        self._policies = policies
        self._catalog = catalog
        self._explainer = explainer
        self._answers_now = answers
        self._everywhere = EachWorker(peers, "traffic", pb.GetTrafficRequest, self._own)

    async def GetTraffic(self, request: pb.GetTrafficRequest) -> pb.GetTrafficResponse:
        """Returns the traffic state of one model, or of all models."""
        own, *others = await self._everywhere.ask(request)
        for state in own.models if others else ():
            pooled_traffic(state, [other for one in others for other in one.models])
        return own

    async def SetTraffic(self, request: pb.SetTrafficRequest) -> pb.SetTrafficResponse:
        """Replaces the policy in force."""
        await self._traffic.put(request.model, read_policy(request.policy), read_change(request.change))
        return pb.SetTrafficResponse(state=self._state(request.model))

    async def RampTraffic(self, request: pb.RampTrafficRequest) -> pb.RampTrafficResponse:
        """Changes the weight of one canary."""
        weight = read_share(request.canary.weight, "canary.weight")
        canary = Canary(parse_version(request.canary.version), weight)
        await self._traffic.ramp(request.model, canary, read_change(request.change))
        return pb.RampTrafficResponse(state=self._state(request.model))

    async def ClearTraffic(self, request: pb.ClearTrafficRequest) -> pb.ClearTrafficResponse:
        """Removes the policy in force."""
        await self._traffic.clear(request.model, read_change(request.change))
        return pb.ClearTrafficResponse(state=self._state(request.model))

    async def FreezeTraffic(self, request: pb.FreezeTrafficRequest) -> pb.FreezeTrafficResponse:
        """Freezes a model's policy so that changes are refused, or unfreezes it."""
        await self._traffic.freeze(request.model, request.frozen, read_change(request.change))
        return pb.FreezeTrafficResponse(state=self._state(request.model))

    async def RevertTraffic(self, request: pb.RevertTrafficRequest) -> pb.RevertTrafficResponse:
        """Reapplies the policy of an earlier epoch."""
        if not 1 <= request.epoch < 2**63:
            raise InvalidRequest.at("epoch", "expected the number of an epoch, 1 or more")
        await self._traffic.revert(request.model, request.epoch, read_change(request.change))
        return pb.RevertTrafficResponse(state=self._state(request.model))

    async def ListTrafficHistory(self, request: pb.ListTrafficHistoryRequest) -> pb.ListTrafficHistoryResponse:
        """Lists earlier policies."""
        if request.limit > _MAX_HISTORY:
            raise InvalidRequest.at("limit", f"expected at most {_MAX_HISTORY}")
        epochs = await self._traffic.history(request.model, request.limit or 100)
        return pb.ListTrafficHistoryResponse(epochs=[epoch_message(record, state) for record, state in epochs])

    async def ExplainRoute(self, request: pb.ExplainRouteRequest) -> pb.ExplainRouteResponse:
        """Explains step by step how a request would be routed."""
        if len(request.routing_key) > _MAX_KEY:
            raise InvalidRequest.at("routing_key", f"expected at most {_MAX_KEY} characters")
        explanation = self._explainer.explain(
            request.model, request.selector, request.routing_key, baseline_only=request.baseline_only
        )
        return explanation_message(explanation)

    def _own(self, request: pb.GetTrafficRequest) -> pb.GetTrafficResponse:
        names = [request.model] if request.model else list(self._catalog.snapshot.models)
        return pb.GetTrafficResponse(models=[self._state(name) for name in names])

    def _state(self, model: str) -> pb.TrafficState:
        known, applied = self._catalog.snapshot.model(model), self._policies.current.get(model)
        return state_message(known, applied, self._answers_now(model), self._policies.diverted.get(model))
