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
    __slots__ = ("changed", "answers", "warnings")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    answers: _traffic_pb2.Answers
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changed: bool = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

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
