import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from turnout_proto.v1 import activity_pb2 as _activity_pb2
from turnout_proto.v1 import catalog_pb2 as _catalog_pb2
from turnout_proto.v1 import rollout_pb2 as _rollout_pb2
from turnout_proto.v1 import servers_pb2 as _servers_pb2
from turnout_proto.v1 import traffic_pb2 as _traffic_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class LoadVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: _catalog_pb2.ModelVersion
    def __init__(self, version: _Optional[_Union[_catalog_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class UnloadVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class UnloadVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: _catalog_pb2.ModelVersion
    def __init__(self, version: _Optional[_Union[_catalog_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class ReleaseVersionRequest(_message.Message):
    __slots__ = ("model", "version", "actor", "reason", "no_traffic", "supersede")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NO_TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    actor: str
    reason: str
    no_traffic: bool
    supersede: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., no_traffic: bool = ..., supersede: bool = ...) -> None: ...

class ReleaseVersionResponse(_message.Message):
    __slots__ = ("changed", "sentence", "answers")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    sentence: str
    answers: _traffic_pb2.Answers
    def __init__(self, changed: bool = ..., sentence: _Optional[str] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class WithdrawVersionRequest(_message.Message):
    __slots__ = ("model", "version", "actor", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    actor: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WithdrawVersionResponse(_message.Message):
    __slots__ = ("changed", "sentence", "answers")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    sentence: str
    answers: _traffic_pb2.Answers
    def __init__(self, changed: bool = ..., sentence: _Optional[str] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class YankVersionRequest(_message.Message):
    __slots__ = ("model", "version", "actor", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    actor: str
    reason: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class YankVersionResponse(_message.Message):
    __slots__ = ("changed", "answers", "warnings", "previous_standing")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STANDING_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    answers: _traffic_pb2.Answers
    warnings: _containers.RepeatedScalarFieldContainer[str]
    previous_standing: _catalog_pb2.Standing
    def __init__(self, changed: bool = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., previous_standing: _Optional[_Union[_catalog_pb2.Standing, str]] = ...) -> None: ...

class UnyankVersionRequest(_message.Message):
    __slots__ = ("model", "version", "actor", "reason", "i_know_why")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    I_KNOW_WHY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    actor: str
    reason: str
    i_know_why: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., i_know_why: bool = ...) -> None: ...

class UnyankVersionResponse(_message.Message):
    __slots__ = ("changed", "answers")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    answers: _traffic_pb2.Answers
    def __init__(self, changed: bool = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class SetTagRequest(_message.Message):
    __slots__ = ("model", "tag", "version", "actor", "reason", "expected_version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    tag: str
    version: str
    actor: str
    reason: str
    expected_version: str
    def __init__(self, model: _Optional[str] = ..., tag: _Optional[str] = ..., version: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., expected_version: _Optional[str] = ...) -> None: ...

class SetTagResponse(_message.Message):
    __slots__ = ("previous_version", "answers")
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    previous_version: str
    answers: _traffic_pb2.Answers
    def __init__(self, previous_version: _Optional[str] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class DeleteTagRequest(_message.Message):
    __slots__ = ("model", "tag", "actor", "reason", "expected_version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    tag: str
    actor: str
    reason: str
    expected_version: str
    def __init__(self, model: _Optional[str] = ..., tag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., expected_version: _Optional[str] = ...) -> None: ...

class DeleteTagResponse(_message.Message):
    __slots__ = ("previous_version", "answers")
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    previous_version: str
    answers: _traffic_pb2.Answers
    def __init__(self, previous_version: _Optional[str] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("model", "limit", "tag")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    model: str
    limit: int
    tag: str
    def __init__(self, model: _Optional[str] = ..., limit: _Optional[int] = ..., tag: _Optional[str] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "revision", "hash")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    revision: int
    hash: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., revision: _Optional[int] = ..., hash: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "time", "model", "kind", "subject", "actor", "reason", "payload_json", "previous", "hash")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    id: int
    time: _timestamp_pb2.Timestamp
    model: str
    kind: str
    subject: str
    actor: str
    reason: str
    payload_json: str
    previous: str
    hash: str
    def __init__(self, id: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model: _Optional[str] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., payload_json: _Optional[str] = ..., previous: _Optional[str] = ..., hash: _Optional[str] = ...) -> None: ...
