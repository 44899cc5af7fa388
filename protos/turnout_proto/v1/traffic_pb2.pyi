import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from turnout_proto.v1 import prediction_pb2 as _prediction_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Canary(_message.Message):
    __slots__ = ("version", "weight")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    version: str
    weight: float
    def __init__(self, version: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("version", "rate")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    version: str
    rate: float
    def __init__(self, version: _Optional[str] = ..., rate: _Optional[float] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("baseline", "canaries", "shadows", "twin")
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANARIES_FIELD_NUMBER: _ClassVar[int]
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    TWIN_FIELD_NUMBER: _ClassVar[int]
    baseline: str
    canaries: _containers.RepeatedCompositeFieldContainer[Canary]
    shadows: _containers.RepeatedCompositeFieldContainer[Shadow]
    twin: float
    def __init__(self, baseline: _Optional[str] = ..., canaries: _Optional[_Iterable[_Union[Canary, _Mapping]]] = ..., shadows: _Optional[_Iterable[_Union[Shadow, _Mapping]]] = ..., twin: _Optional[float] = ...) -> None: ...

class TrafficShare(_message.Message):
    __slots__ = ("version", "role", "desired", "applied", "decisions", "deviation")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    version: str
    role: _prediction_pb2.Role
    desired: float
    applied: float
    decisions: int
    deviation: float
    def __init__(self, version: _Optional[str] = ..., role: _Optional[_Union[_prediction_pb2.Role, str]] = ..., desired: _Optional[float] = ..., applied: _Optional[float] = ..., decisions: _Optional[int] = ..., deviation: _Optional[float] = ...) -> None: ...

class AnswerPart(_message.Message):
    __slots__ = ("version", "share", "role", "rollout")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    version: str
    share: float
    role: _prediction_pb2.Role
    rollout: int
    def __init__(self, version: _Optional[str] = ..., share: _Optional[float] = ..., role: _Optional[_Union[_prediction_pb2.Role, str]] = ..., rollout: _Optional[int] = ...) -> None: ...

class SelectorAnswer(_message.Message):
    __slots__ = ("selector", "parts")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    selector: str
    parts: _containers.RepeatedCompositeFieldContainer[AnswerPart]
    def __init__(self, selector: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[AnswerPart, _Mapping]]] = ...) -> None: ...

class Answers(_message.Message):
    __slots__ = ("selectors", "notes")
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    selectors: _containers.RepeatedCompositeFieldContainer[SelectorAnswer]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, selectors: _Optional[_Iterable[_Union[SelectorAnswer, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class TrafficState(_message.Message):
    __slots__ = ("model", "epoch", "policy", "frozen", "shares", "changed_at", "actor", "reason", "action", "answers", "diverted")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    DIVERTED_FIELD_NUMBER: _ClassVar[int]
    model: str
    epoch: int
    policy: Policy
    frozen: bool
    shares: _containers.RepeatedCompositeFieldContainer[TrafficShare]
    changed_at: _timestamp_pb2.Timestamp
    actor: str
    reason: str
    action: str
    answers: Answers
    diverted: str
    def __init__(self, model: _Optional[str] = ..., epoch: _Optional[int] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., frozen: bool = ..., shares: _Optional[_Iterable[_Union[TrafficShare, _Mapping]]] = ..., changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., action: _Optional[str] = ..., answers: _Optional[_Union[Answers, _Mapping]] = ..., diverted: _Optional[str] = ...) -> None: ...

class GetTrafficRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetTrafficResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[TrafficState]
    def __init__(self, models: _Optional[_Iterable[_Union[TrafficState, _Mapping]]] = ...) -> None: ...

class TrafficChange(_message.Message):
    __slots__ = ("actor", "reason", "expected_epoch", "force")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    actor: str
    reason: str
    expected_epoch: int
    force: bool
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ..., expected_epoch: _Optional[int] = ..., force: bool = ...) -> None: ...

class SetTrafficRequest(_message.Message):
    __slots__ = ("model", "policy", "change")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    policy: Policy
    change: TrafficChange
    def __init__(self, model: _Optional[str] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., change: _Optional[_Union[TrafficChange, _Mapping]] = ...) -> None: ...

class SetTrafficResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TrafficState
    def __init__(self, state: _Optional[_Union[TrafficState, _Mapping]] = ...) -> None: ...

class RampTrafficRequest(_message.Message):
    __slots__ = ("model", "canary", "change")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    canary: Canary
    change: TrafficChange
    def __init__(self, model: _Optional[str] = ..., canary: _Optional[_Union[Canary, _Mapping]] = ..., change: _Optional[_Union[TrafficChange, _Mapping]] = ...) -> None: ...

class RampTrafficResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TrafficState
    def __init__(self, state: _Optional[_Union[TrafficState, _Mapping]] = ...) -> None: ...

class ClearTrafficRequest(_message.Message):
    __slots__ = ("model", "change")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    change: TrafficChange
    def __init__(self, model: _Optional[str] = ..., change: _Optional[_Union[TrafficChange, _Mapping]] = ...) -> None: ...

class ClearTrafficResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TrafficState
    def __init__(self, state: _Optional[_Union[TrafficState, _Mapping]] = ...) -> None: ...

class FreezeTrafficRequest(_message.Message):
    __slots__ = ("model", "frozen", "change")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    frozen: bool
    change: TrafficChange
    def __init__(self, model: _Optional[str] = ..., frozen: bool = ..., change: _Optional[_Union[TrafficChange, _Mapping]] = ...) -> None: ...

class FreezeTrafficResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TrafficState
    def __init__(self, state: _Optional[_Union[TrafficState, _Mapping]] = ...) -> None: ...

class RevertTrafficRequest(_message.Message):
    __slots__ = ("model", "epoch", "change")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    epoch: int
    change: TrafficChange
    def __init__(self, model: _Optional[str] = ..., epoch: _Optional[int] = ..., change: _Optional[_Union[TrafficChange, _Mapping]] = ...) -> None: ...

class RevertTrafficResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TrafficState
    def __init__(self, state: _Optional[_Union[TrafficState, _Mapping]] = ...) -> None: ...

class ListTrafficHistoryRequest(_message.Message):
    __slots__ = ("model", "limit")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    model: str
    limit: int
    def __init__(self, model: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListTrafficHistoryResponse(_message.Message):
    __slots__ = ("epochs",)
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    epochs: _containers.RepeatedCompositeFieldContainer[TrafficState]
    def __init__(self, epochs: _Optional[_Iterable[_Union[TrafficState, _Mapping]]] = ...) -> None: ...

class ExplainRouteRequest(_message.Message):
    __slots__ = ("model", "selector", "routing_key", "baseline_only")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    BASELINE_ONLY_FIELD_NUMBER: _ClassVar[int]
    model: str
    selector: str
    routing_key: str
    baseline_only: bool
    def __init__(self, model: _Optional[str] = ..., selector: _Optional[str] = ..., routing_key: _Optional[str] = ..., baseline_only: bool = ...) -> None: ...

class RouteStep(_message.Message):
    __slots__ = ("subject", "finding")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    subject: str
    finding: str
    def __init__(self, subject: _Optional[str] = ..., finding: _Optional[str] = ...) -> None: ...

class RouteChance(_message.Message):
    __slots__ = ("route", "chance")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    CHANCE_FIELD_NUMBER: _ClassVar[int]
    route: _prediction_pb2.Route
    chance: float
    def __init__(self, route: _Optional[_Union[_prediction_pb2.Route, _Mapping]] = ..., chance: _Optional[float] = ...) -> None: ...

class ExplainRouteResponse(_message.Message):
    __slots__ = ("steps", "chances", "refusal", "slot")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CHANCES_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[RouteStep]
    chances: _containers.RepeatedCompositeFieldContainer[RouteChance]
    refusal: str
    slot: int
    def __init__(self, steps: _Optional[_Iterable[_Union[RouteStep, _Mapping]]] = ..., chances: _Optional[_Iterable[_Union[RouteChance, _Mapping]]] = ..., refusal: _Optional[str] = ..., slot: _Optional[int] = ...) -> None: ...

class GetShadowReportRequest(_message.Message):
    __slots__ = ("model", "worst")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WORST_FIELD_NUMBER: _ClassVar[int]
    model: str
    worst: int
    def __init__(self, model: _Optional[str] = ..., worst: _Optional[int] = ...) -> None: ...

class GetShadowReportResponse(_message.Message):
    __slots__ = ("shadows",)
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    shadows: _containers.RepeatedCompositeFieldContainer[ShadowReport]
    def __init__(self, shadows: _Optional[_Iterable[_Union[ShadowReport, _Mapping]]] = ...) -> None: ...

class ShadowReport(_message.Message):
    __slots__ = ("version", "baseline", "state", "outcomes", "dropped", "agreement", "noise_runs", "noise_disagreements", "outputs", "worst")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    NOISE_RUNS_FIELD_NUMBER: _ClassVar[int]
    NOISE_DISAGREEMENTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    WORST_FIELD_NUMBER: _ClassVar[int]
    version: str
    baseline: str
    state: str
    outcomes: _containers.ScalarMap[str, int]
    dropped: _containers.ScalarMap[str, int]
    agreement: float
    noise_runs: int
    noise_disagreements: int
    outputs: _containers.RepeatedCompositeFieldContainer[ShadowOutput]
    worst: _containers.RepeatedCompositeFieldContainer[Disagreement]
    def __init__(self, version: _Optional[str] = ..., baseline: _Optional[str] = ..., state: _Optional[str] = ..., outcomes: _Optional[_Mapping[str, int]] = ..., dropped: _Optional[_Mapping[str, int]] = ..., agreement: _Optional[float] = ..., noise_runs: _Optional[int] = ..., noise_disagreements: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[ShadowOutput, _Mapping]]] = ..., worst: _Optional[_Iterable[_Union[Disagreement, _Mapping]]] = ...) -> None: ...

class ShadowOutput(_message.Message):
    __slots__ = ("name", "compared", "mismatches", "max_abs", "mean_abs", "top1", "top_k", "measured", "ranked")
    class MismatchesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    MISMATCHES_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    MEAN_ABS_FIELD_NUMBER: _ClassVar[int]
    TOP1_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    RANKED_FIELD_NUMBER: _ClassVar[int]
    name: str
    compared: int
    mismatches: _containers.ScalarMap[str, int]
    max_abs: float
    mean_abs: float
    top1: float
    top_k: float
    measured: int
    ranked: int
    def __init__(self, name: _Optional[str] = ..., compared: _Optional[int] = ..., mismatches: _Optional[_Mapping[str, int]] = ..., max_abs: _Optional[float] = ..., mean_abs: _Optional[float] = ..., top1: _Optional[float] = ..., top_k: _Optional[float] = ..., measured: _Optional[int] = ..., ranked: _Optional[int] = ...) -> None: ...

class Disagreement(_message.Message):
    __slots__ = ("request_id", "time", "output", "kind", "detail", "max_abs", "max_rel", "rmse", "cosine", "margin", "inputs", "severity")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_FIELD_NUMBER: _ClassVar[int]
    RMSE_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    time: _timestamp_pb2.Timestamp
    output: str
    kind: str
    detail: str
    max_abs: float
    max_rel: float
    rmse: float
    cosine: float
    margin: float
    inputs: _containers.RepeatedCompositeFieldContainer[_prediction_pb2.Tensor]
    severity: float
    def __init__(self, request_id: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., output: _Optional[str] = ..., kind: _Optional[str] = ..., detail: _Optional[str] = ..., max_abs: _Optional[float] = ..., max_rel: _Optional[float] = ..., rmse: _Optional[float] = ..., cosine: _Optional[float] = ..., margin: _Optional[float] = ..., inputs: _Optional[_Iterable[_Union[_prediction_pb2.Tensor, _Mapping]]] = ..., severity: _Optional[float] = ...) -> None: ...
