from turnout_proto.v1 import traffic_pb2 as _traffic_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AnnouncedFile(_message.Message):
    __slots__ = ("path", "size", "digest")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    digest: str
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class FileChunk(_message.Message):
    __slots__ = ("file", "offset", "data")
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    file: int
    offset: int
    data: bytes
    def __init__(self, file: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BeginUploadRequest(_message.Message):
    __slots__ = ("model", "version", "files", "metadata_json")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    files: _containers.RepeatedCompositeFieldContainer[AnnouncedFile]
    metadata_json: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., files: _Optional[_Iterable[_Union[AnnouncedFile, _Mapping]]] = ..., metadata_json: _Optional[str] = ...) -> None: ...

class BeginUploadResponse(_message.Message):
    __slots__ = ("upload_id", "received", "published")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    received: _containers.RepeatedScalarFieldContainer[int]
    published: PublishedVersion
    def __init__(self, upload_id: _Optional[str] = ..., received: _Optional[_Iterable[int]] = ..., published: _Optional[_Union[PublishedVersion, _Mapping]] = ...) -> None: ...

class UploadFilesRequest(_message.Message):
    __slots__ = ("upload_id", "chunk")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    chunk: FileChunk
    def __init__(self, upload_id: _Optional[str] = ..., chunk: _Optional[_Union[FileChunk, _Mapping]] = ...) -> None: ...

class UploadFilesResponse(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, received: _Optional[_Iterable[int]] = ...) -> None: ...

class DescribeUploadRequest(_message.Message):
    __slots__ = ("upload_id", "progress")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    progress: bool
    def __init__(self, upload_id: _Optional[str] = ..., progress: bool = ...) -> None: ...

class DescribeUploadResponse(_message.Message):
    __slots__ = ("version", "progress")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    version: PublishedVersion
    progress: PublishProgress
    def __init__(self, version: _Optional[_Union[PublishedVersion, _Mapping]] = ..., progress: _Optional[_Union[PublishProgress, _Mapping]] = ...) -> None: ...

class PublishProgress(_message.Message):
    __slots__ = ("gate", "seconds")
    GATE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    gate: str
    seconds: float
    def __init__(self, gate: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class DigestSignature(_message.Message):
    __slots__ = ("digest", "public_key", "signature")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    public_key: bytes
    signature: bytes
    def __init__(self, digest: _Optional[str] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ModelSignature(_message.Message):
    __slots__ = ("bundle", "public_key")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    bundle: bytes
    public_key: bytes
    def __init__(self, bundle: _Optional[bytes] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class PublishUploadRequest(_message.Message):
    __slots__ = ("upload_id", "release", "actor", "reason", "skip_gates", "dry_run", "signature", "model_signature")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SKIP_GATES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    release: bool
    actor: str
    reason: str
    skip_gates: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    signature: DigestSignature
    model_signature: ModelSignature
    def __init__(self, upload_id: _Optional[str] = ..., release: bool = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., skip_gates: _Optional[_Iterable[str]] = ..., dry_run: bool = ..., signature: _Optional[_Union[DigestSignature, _Mapping]] = ..., model_signature: _Optional[_Union[ModelSignature, _Mapping]] = ...) -> None: ...

class PublishUploadResponse(_message.Message):
    __slots__ = ("published", "sentence", "answers")
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    published: PublishedVersion
    sentence: str
    answers: _traffic_pb2.Answers
    def __init__(self, published: _Optional[_Union[PublishedVersion, _Mapping]] = ..., sentence: _Optional[str] = ..., answers: _Optional[_Union[_traffic_pb2.Answers, _Mapping]] = ...) -> None: ...

class PublishedVersion(_message.Message):
    __slots__ = ("manifest", "digest", "created", "gates", "standing", "parent", "dry_run")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    digest: str
    created: bool
    gates: _containers.RepeatedCompositeFieldContainer[GateResult]
    standing: str
    parent: str
    dry_run: bool
    def __init__(self, manifest: _Optional[bytes] = ..., digest: _Optional[str] = ..., created: bool = ..., gates: _Optional[_Iterable[_Union[GateResult, _Mapping]]] = ..., standing: _Optional[str] = ..., parent: _Optional[str] = ..., dry_run: bool = ...) -> None: ...

class GateResult(_message.Message):
    __slots__ = ("gate", "outcome", "evidence", "numbers")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    GATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    gate: str
    outcome: str
    evidence: str
    numbers: _containers.ScalarMap[str, float]
    def __init__(self, gate: _Optional[str] = ..., outcome: _Optional[str] = ..., evidence: _Optional[str] = ..., numbers: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GatesRefused(_message.Message):
    __slots__ = ("version", "digest", "parent", "gates")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    version: str
    digest: str
    parent: str
    gates: _containers.RepeatedCompositeFieldContainer[GateResult]
    def __init__(self, version: _Optional[str] = ..., digest: _Optional[str] = ..., parent: _Optional[str] = ..., gates: _Optional[_Iterable[_Union[GateResult, _Mapping]]] = ...) -> None: ...

class AbandonUploadRequest(_message.Message):
    __slots__ = ("upload_id",)
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    def __init__(self, upload_id: _Optional[str] = ...) -> None: ...

class AbandonUploadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SignVersionRequest(_message.Message):
    __slots__ = ("model", "version", "signature", "actor", "reason", "model_signature")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    signature: DigestSignature
    actor: str
    reason: str
    model_signature: ModelSignature
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., signature: _Optional[_Union[DigestSignature, _Mapping]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., model_signature: _Optional[_Union[ModelSignature, _Mapping]] = ...) -> None: ...

class SignVersionResponse(_message.Message):
    __slots__ = ("changed",)
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    def __init__(self, changed: bool = ...) -> None: ...

class DescribeVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class DescribeVersionResponse(_message.Message):
    __slots__ = ("manifest", "digest", "signatures", "yank_reason", "environment_json", "gate_reports_json")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    YANK_REASON_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    GATE_REPORTS_JSON_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    digest: str
    signatures: _containers.RepeatedCompositeFieldContainer[KnownSignature]
    yank_reason: str
    environment_json: str
    gate_reports_json: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, manifest: _Optional[bytes] = ..., digest: _Optional[str] = ..., signatures: _Optional[_Iterable[_Union[KnownSignature, _Mapping]]] = ..., yank_reason: _Optional[str] = ..., environment_json: _Optional[str] = ..., gate_reports_json: _Optional[_Iterable[str]] = ...) -> None: ...

class KnownSignature(_message.Message):
    __slots__ = ("key", "worth")
    KEY_FIELD_NUMBER: _ClassVar[int]
    WORTH_FIELD_NUMBER: _ClassVar[int]
    key: str
    worth: str
    def __init__(self, key: _Optional[str] = ..., worth: _Optional[str] = ...) -> None: ...

class FetchVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class FetchVersionResponse(_message.Message):
    __slots__ = ("manifest", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: FetchedManifest
    chunk: FileChunk
    def __init__(self, manifest: _Optional[_Union[FetchedManifest, _Mapping]] = ..., chunk: _Optional[_Union[FileChunk, _Mapping]] = ...) -> None: ...

class FetchedManifest(_message.Message):
    __slots__ = ("manifest", "digest", "signature_bundles")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_BUNDLES_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    digest: str
    signature_bundles: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, manifest: _Optional[bytes] = ..., digest: _Optional[str] = ..., signature_bundles: _Optional[_Iterable[bytes]] = ...) -> None: ...
