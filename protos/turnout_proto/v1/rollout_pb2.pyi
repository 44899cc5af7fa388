import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from turnout_proto.v1 import traffic_pb2 as _traffic_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RolloutCommand(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_COMMAND_UNSPECIFIED: _ClassVar[RolloutCommand]
    ROLLOUT_COMMAND_PAUSE: _ClassVar[RolloutCommand]
    ROLLOUT_COMMAND_RESUME: _ClassVar[RolloutCommand]
    ROLLOUT_COMMAND_PROMOTE: _ClassVar[RolloutCommand]
    ROLLOUT_COMMAND_PROMOTE_FULL: _ClassVar[RolloutCommand]
    ROLLOUT_COMMAND_ABORT: _ClassVar[RolloutCommand]
    ROLLOUT_COMMAND_SET_WEIGHT: _ClassVar[RolloutCommand]
    ROLLOUT_COMMAND_RETRY: _ClassVar[RolloutCommand]
ROLLOUT_COMMAND_UNSPECIFIED: RolloutCommand
ROLLOUT_COMMAND_PAUSE: RolloutCommand
ROLLOUT_COMMAND_RESUME: RolloutCommand
ROLLOUT_COMMAND_PROMOTE: RolloutCommand
ROLLOUT_COMMAND_PROMOTE_FULL: RolloutCommand
ROLLOUT_COMMAND_ABORT: RolloutCommand
ROLLOUT_COMMAND_SET_WEIGHT: RolloutCommand
ROLLOUT_COMMAND_RETRY: RolloutCommand

class RolloutMetric(_message.Message):
    __slots__ = ("name", "weight", "e_value", "fit_value", "canary_requests", "canary_bad", "baseline_requests", "baseline_bad", "threshold_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    E_VALUE_FIELD_NUMBER: _ClassVar[int]
    FIT_VALUE_FIELD_NUMBER: _ClassVar[int]
    CANARY_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CANARY_BAD_FIELD_NUMBER: _ClassVar[int]
    BASELINE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_BAD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    e_value: float
    fit_value: float
    canary_requests: int
    canary_bad: int
    baseline_requests: int
    baseline_bad: int
    threshold_seconds: float
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., e_value: _Optional[float] = ..., fit_value: _Optional[float] = ..., canary_requests: _Optional[int] = ..., canary_bad: _Optional[int] = ..., baseline_requests: _Optional[int] = ..., baseline_bad: _Optional[int] = ..., threshold_seconds: _Optional[float] = ...) -> None: ...

class RolloutProbe(_message.Message):
    __slots__ = ("name", "outcome", "value", "detail", "time", "passed", "failed", "inconclusive", "failure_limit", "lacking")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    INCONCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    name: str
    outcome: str
    value: str
    detail: str
    time: _timestamp_pb2.Timestamp
    passed: int
    failed: int
    inconclusive: int
    failure_limit: int
    lacking: str
    def __init__(self, name: _Optional[str] = ..., outcome: _Optional[str] = ..., value: _Optional[str] = ..., detail: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., passed: _Optional[int] = ..., failed: _Optional[int] = ..., inconclusive: _Optional[int] = ..., failure_limit: _Optional[int] = ..., lacking: _Optional[str] = ...) -> None: ...

class RolloutEvent(_message.Message):
    __slots__ = ("kind", "text", "actor", "time")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    text: str
    actor: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, kind: _Optional[str] = ..., text: _Optional[str] = ..., actor: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("model", "attempt", "candidate", "previous", "state", "step", "steps", "weight", "epoch", "e_value", "threshold", "metrics", "pauses", "verdict", "step_seconds", "soak_seconds", "plan_json", "plan_digest", "actor", "reason", "started_at", "changed_at", "events", "alpha", "lacking", "probes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    E_VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PAUSES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SOAK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    model: str
    attempt: int
    candidate: str
    previous: str
    state: str
    step: int
    steps: int
    weight: float
    epoch: int
    e_value: float
    threshold: float
    metrics: _containers.RepeatedCompositeFieldContainer[RolloutMetric]
    pauses: _containers.RepeatedScalarFieldContainer[str]
    verdict: str
    step_seconds: float
    soak_seconds: float
    plan_json: str
    plan_digest: str
    actor: str
    reason: str
    started_at: _timestamp_pb2.Timestamp
    changed_at: _timestamp_pb2.Timestamp
    events: _containers.RepeatedCompositeFieldContainer[RolloutEvent]
    alpha: float
    lacking: _containers.RepeatedScalarFieldContainer[str]
    probes: _containers.RepeatedCompositeFieldContainer[RolloutProbe]
    def __init__(self, model: _Optional[str] = ..., attempt: _Optional[int] = ..., candidate: _Optional[str] = ..., previous: _Optional[str] = ..., state: _Optional[str] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., weight: _Optional[float] = ..., epoch: _Optional[int] = ..., e_value: _Optional[float] = ..., threshold: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[RolloutMetric, _Mapping]]] = ..., pauses: _Optional[_Iterable[str]] = ..., verdict: _Optional[str] = ..., step_seconds: _Optional[float] = ..., soak_seconds: _Optional[float] = ..., plan_json: _Optional[str] = ..., plan_digest: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., events: _Optional[_Iterable[_Union[RolloutEvent, _Mapping]]] = ..., alpha: _Optional[float] = ..., lacking: _Optional[_Iterable[str]] = ..., probes: _Optional[_Iterable[_Union[RolloutProbe, _Mapping]]] = ...) -> None: ...

class RolloutChange(_message.Message):
    __slots__ = ("actor", "reason", "expected_epoch")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    actor: str
    reason: str
    expected_epoch: int
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ..., expected_epoch: _Optional[int] = ...) -> None: ...

class PlanRolloutRequest(_message.Message):
    __slots__ = ("model", "version", "plan_json")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    plan_json: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., plan_json: _Optional[str] = ...) -> None: ...

class RolloutDetection(_message.Message):
    __slots__ = ("effect", "seconds", "requests")
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    effect: str
    seconds: float
    requests: float
    def __init__(self, effect: _Optional[str] = ..., seconds: _Optional[float] = ..., requests: _Optional[float] = ...) -> None: ...

class RolloutPower(_message.Message):
    __slots__ = ("step", "weight", "soak_seconds", "detections")
    STEP_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SOAK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    step: int
    weight: float
    soak_seconds: float
    detections: _containers.RepeatedCompositeFieldContainer[RolloutDetection]
    def __init__(self, step: _Optional[int] = ..., weight: _Optional[float] = ..., soak_seconds: _Optional[float] = ..., detections: _Optional[_Iterable[_Union[RolloutDetection, _Mapping]]] = ...) -> None: ...

class PlanRolloutResponse(_message.Message):
    __slots__ = ("previous", "plan_json", "plan_digest", "refusals", "requests_per_second", "error_rate", "power", "missed", "probes", "confirms")
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    CONFIRMS_FIELD_NUMBER: _ClassVar[int]
    previous: str
    plan_json: str
    plan_digest: str
    refusals: _containers.RepeatedScalarFieldContainer[str]
    requests_per_second: float
    error_rate: float
    power: _containers.RepeatedCompositeFieldContainer[RolloutPower]
    missed: _containers.RepeatedScalarFieldContainer[str]
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    confirms: bool
    def __init__(self, previous: _Optional[str] = ..., plan_json: _Optional[str] = ..., plan_digest: _Optional[str] = ..., refusals: _Optional[_Iterable[str]] = ..., requests_per_second: _Optional[float] = ..., error_rate: _Optional[float] = ..., power: _Optional[_Iterable[_Union[RolloutPower, _Mapping]]] = ..., missed: _Optional[_Iterable[str]] = ..., probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ..., confirms: bool = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("name", "kind", "condition", "interval_seconds", "initial_delay_seconds", "count", "failure_limit", "consecutive_error_limit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONSECUTIVE_ERROR_LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    condition: str
    interval_seconds: float
    initial_delay_seconds: float
    count: int
    failure_limit: int
    consecutive_error_limit: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., condition: _Optional[str] = ..., interval_seconds: _Optional[float] = ..., initial_delay_seconds: _Optional[float] = ..., count: _Optional[int] = ..., failure_limit: _Optional[int] = ..., consecutive_error_limit: _Optional[int] = ...) -> None: ...

class ListProbesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListProbesResponse(_message.Message):
    __slots__ = ("probes",)
    PROBES_FIELD_NUMBER: _ClassVar[int]
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    def __init__(self, probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ...) -> None: ...

class TryProbeRequest(_message.Message):
    __slots__ = ("probe", "model", "version")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    probe: str
    model: str
    version: str
    def __init__(self, probe: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class TryProbeResponse(_message.Message):
    __slots__ = ("outcome", "value", "detail", "seconds", "baseline", "asked")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    value: str
    detail: str
    seconds: float
    baseline: str
    asked: Probe
    def __init__(self, outcome: _Optional[str] = ..., value: _Optional[str] = ..., detail: _Optional[str] = ..., seconds: _Optional[float] = ..., baseline: _Optional[str] = ..., asked: _Optional[_Union[Probe, _Mapping]] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("model", "version", "plan_json", "change")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    plan_json: str
    change: RolloutChange
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., plan_json: _Optional[str] = ..., change: _Optional[_Union[RolloutChange, _Mapping]] = ...) -> None: ...

class StartRolloutResponse(_message.Message):
    __slots__ = ("rollout", "answers")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    answers: _traffic_pb2.Answers
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class CommandRolloutRequest(_message.Message):
    __slots__ = ("model", "command", "weight", "change", "attempt", "discard")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DISCARD_FIELD_NUMBER: _ClassVar[int]
    model: str
    command: RolloutCommand
    weight: float
    change: RolloutChange
    attempt: int
    discard: bool
    def __init__(self, model: _Optional[str] = ..., command: _Optional[_Union[RolloutCommand, str]] = ..., weight: _Optional[float] = ..., change: _Optional[_Union[RolloutChange, _Mapping]] = ..., attempt: _Optional[int] = ..., discard: bool = ...) -> None: ...

class CommandRolloutResponse(_message.Message):
    __slots__ = ("rollout", "answers")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    answers: _traffic_pb2.Answers
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ("model", "limit")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    model: str
    limit: int
    def __init__(self, model: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListRolloutsResponse(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ...) -> None: ...

class WatchRolloutRequest(_message.Message):
    __slots__ = ("model", "attempt")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    model: str
    attempt: int
    def __init__(self, model: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class WatchRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class GetRolloutTicksRequest(_message.Message):
    __slots__ = ("model", "attempt", "after")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    model: str
    attempt: int
    after: int
    def __init__(self, model: _Optional[str] = ..., attempt: _Optional[int] = ..., after: _Optional[int] = ...) -> None: ...

class GetRolloutTicksResponse(_message.Message):
    __slots__ = ("rollout", "ticks_json", "times", "last_tick", "more")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    TICKS_JSON_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    LAST_TICK_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    ticks_json: _containers.RepeatedScalarFieldContainer[str]
    times: _containers.RepeatedCompositeFieldContainer[_timestamp_pb2.Timestamp]
    last_tick: int
    more: bool
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ..., ticks_json: _Optional[_Iterable[str]] = ..., times: _Optional[_Iterable[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]]] = ..., last_tick: _Optional[int] = ..., more: bool = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("model", "version", "change", "keep_released")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    KEEP_RELEASED_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    change: RolloutChange
    keep_released: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., change: _Optional[_Union[RolloutChange, _Mapping]] = ..., keep_released: bool = ...) -> None: ...

class RollBackResponse(_message.Message):
    __slots__ = ("baseline", "epoch", "answers", "sentence")
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    baseline: str
    epoch: int
    answers: _traffic_pb2.Answers
    sentence: str
    def __init__(self, baseline: _Optional[str] = ..., epoch: _Optional[int] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ..., sentence: _Optional[str] = ...) -> None: ...
