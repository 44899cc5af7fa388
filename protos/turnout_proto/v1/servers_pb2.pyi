import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListServersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListServersResponse(_message.Message):
    __slots__ = ("servers", "answered_by")
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_BY_FIELD_NUMBER: _ClassVar[int]
    servers: _containers.RepeatedCompositeFieldContainer[ServerStatus]
    answered_by: str
    def __init__(self, servers: _Optional[_Iterable[_Union[ServerStatus, _Mapping]]] = ..., answered_by: _Optional[str] = ...) -> None: ...

class ServerStatus(_message.Message):
    __slots__ = ("name", "alive", "started_at", "silent", "address", "release", "models")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    alive: bool
    started_at: _timestamp_pb2.Timestamp
    silent: _duration_pb2.Duration
    address: str
    release: str
    models: _containers.RepeatedCompositeFieldContainer[ServerModel]
    def __init__(self, name: _Optional[str] = ..., alive: bool = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., silent: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., address: _Optional[str] = ..., release: _Optional[str] = ..., models: _Optional[_Iterable[_Union[ServerModel, _Mapping]]] = ...) -> None: ...

class ServerModel(_message.Message):
    __slots__ = ("model", "versions", "epoch", "behind", "diverted")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    DIVERTED_FIELD_NUMBER: _ClassVar[int]
    model: str
    versions: _containers.RepeatedScalarFieldContainer[str]
    epoch: int
    behind: int
    diverted: str
    def __init__(self, model: _Optional[str] = ..., versions: _Optional[_Iterable[str]] = ..., epoch: _Optional[int] = ..., behind: _Optional[int] = ..., diverted: _Optional[str] = ...) -> None: ...
