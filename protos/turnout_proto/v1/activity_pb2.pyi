from turnout_proto.v1 import catalog_pb2 as _catalog_pb2
from turnout_proto.v1 import rollout_pb2 as _rollout_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetActivityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetActivityResponse(_message.Message):
    __slots__ = ("seconds", "draining", "latency_bounds", "unrouted", "versions", "rollouts", "process")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BOUNDS_FIELD_NUMBER: _ClassVar[int]
    UNROUTED_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    draining: bool
    latency_bounds: _containers.RepeatedScalarFieldContainer[float]
    unrouted: int
    versions: _containers.RepeatedCompositeFieldContainer[VersionActivity]
    rollouts: _containers.RepeatedCompositeFieldContainer[_rollout_pb2.Rollout]
    process: str
    def __init__(self, seconds: _Optional[float] = ..., draining: bool = ..., latency_bounds: _Optional[_Iterable[float]] = ..., unrouted: _Optional[int] = ..., versions: _Optional[_Iterable[_Union[VersionActivity, _Mapping]]] = ..., rollouts: _Optional[_Iterable[_Union[_rollout_pb2.Rollout, _Mapping]]] = ..., process: _Optional[str] = ...) -> None: ...

class VersionActivity(_message.Message):
    __slots__ = ("model", "version", "state", "standing", "inflight", "queue_depth", "queue_fill", "roles")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DEPTH_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FILL_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    state: _catalog_pb2.VersionState
    standing: _catalog_pb2.Standing
    inflight: int
    queue_depth: int
    queue_fill: float
    roles: _containers.RepeatedCompositeFieldContainer[RoleActivity]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[_catalog_pb2.VersionState, str]] = ..., standing: _Optional[_Union[_catalog_pb2.Standing, str]] = ..., inflight: _Optional[int] = ..., queue_depth: _Optional[int] = ..., queue_fill: _Optional[float] = ..., roles: _Optional[_Iterable[_Union[RoleActivity, _Mapping]]] = ...) -> None: ...

class RoleActivity(_message.Message):
    __slots__ = ("role", "requests", "failures", "latency", "weight")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    role: str
    requests: int
    failures: int
    latency: _containers.RepeatedScalarFieldContainer[int]
    weight: float
    def __init__(self, role: _Optional[str] = ..., requests: _Optional[int] = ..., failures: _Optional[int] = ..., latency: _Optional[_Iterable[int]] = ..., weight: _Optional[float] = ...) -> None: ...
