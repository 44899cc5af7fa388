"""The permissions that each method and route requires. A method that is not listed is not served. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from turnout.auth.roles import AccessRole


class ResourceKind(Enum):
    """The resource that a permission is checked against."""

    PUBLIC = auto()
    """No permission is required. Callers with one of the roles on `*` may be shown more."""
    KNOWN = auto()
    """Any caller that is known, or has some grant."""
    MODEL = auto()
    """A role on the model that the request names."""
    UPLOAD = auto()
    """A role on the model of the upload that the request names."""
    LISTED = auto()
    """A role on some model. The response contains only those models. If the request names a model: a role on it."""
    SERVER = auto()
    """A role on `*`, for calls about the server or about all models at once."""
    SETTING = auto()
    """A role on the model that the request names, or on `*` if it names none; the `also` role instead if the request
    changes something."""
    INFERENCE = auto()
    """`predict` on the model of each message; the data plane checks it."""
    HEALTH = auto()
    """No permission for the server and its services; a role on the model for `model:NAME`."""


@dataclass(frozen=True, slots=True)
class Need:
    """The permissions that one method or route requires.

    Attributes:
        kind: The resource that the permission is checked against.
        roles: Roles, of which one is enough.
        field: The field of the request, or the part of the path, with the name of the model or the id of the upload.
        also: A field of the request, and the role that is also required (for a setting: required instead) if the
            field is set.
        paths: Paths in the response to the fields with model names, through lists. Items of models that the caller
            may not see are left out.
        audited: Whether each permitted call is logged with its caller: it may change something, or takes files.
    """

    kind: ResourceKind
    roles: tuple[AccessRole, ...] = ()
    field: str = "model"
    also: tuple[str, AccessRole] | None = None
    paths: tuple[str, ...] = ()
    audited: bool = False


PUBLIC = Need(ResourceKind.PUBLIC)
KNOWN = Need(ResourceKind.KNOWN)
INFERENCE = Need(ResourceKind.INFERENCE, (AccessRole.PREDICT,))
_LOOKS = {AccessRole.PREDICT, AccessRole.READ}
"""Roles whose calls change nothing."""


def _on(*roles: AccessRole, field: str = "model", audited: bool = False) -> Need:
    return Need(ResourceKind.MODEL, roles, field, audited=audited or not _LOOKS.intersection(roles))


def _listed(*paths: str) -> Need:
    return Need(ResourceKind.LISTED, (AccessRole.READ,), paths=paths)


def _upload(also: tuple[str, AccessRole] | None = None, *, audited: bool = True) -> Need:
    return Need(ResourceKind.UPLOAD, (AccessRole.PUBLISH,), "upload_id", also, audited=audited)


def _setting(change: AccessRole, field: str = "model") -> Need:
    return Need(ResourceKind.SETTING, (AccessRole.READ,), field, ("settings", change))


_LOG, _TRACE = _setting(AccessRole.ADMIN), _setting(AccessRole.OPERATE, "model_name")
_SHARED_MEMORY = Need(ResourceKind.LISTED, (AccessRole.PREDICT,))  # the caller's own regions, for any model

_READ, _OPERATE = _on(AccessRole.READ), _on(AccessRole.OPERATE)
_ADMIN = Need(ResourceKind.SERVER, (AccessRole.ADMIN,))

_SERVICES: Mapping[str, Mapping[str, Need]] = {
    "turnout.v1.PredictionService": {"Predict": INFERENCE, "PredictStream": INFERENCE},
    "turnout.v1.CatalogService": {"ListModels": _listed("models.name"), "GetModel": _READ, "GetVersion": _READ},
    "turnout.v1.ControlService": {
        "LoadVersion": _OPERATE,
        "UnloadVersion": _OPERATE,
        "ReleaseVersion": _OPERATE,
        "WithdrawVersion": _OPERATE,
        "YankVersion": _OPERATE,
        "UnyankVersion": _OPERATE,
        "SetTag": _OPERATE,
        "DeleteTag": _OPERATE,
        "ListEvents": _READ,  # without a model: on `*`
        "GetActivity": _listed("versions.model", "rollouts.model"),
        "ListServers": _listed("servers.models.model"),
        "GetTraffic": _listed("models.model"),
        "SetTraffic": _OPERATE,
        "RampTraffic": _OPERATE,
        "ClearTraffic": _OPERATE,
        "FreezeTraffic": _OPERATE,
        "RevertTraffic": _OPERATE,
        "ListTrafficHistory": _READ,
        "ExplainRoute": _READ,
        "GetShadowReport": _OPERATE,  # it may contain inputs of requests (shadow.keep_inputs)
        "PlanRollout": _READ,
        "ListProbes": _listed(),
        "TryProbe": _OPERATE,  # the server calls an external system
        "StartRollout": _OPERATE,
        "CommandRollout": _OPERATE,
        "ListRollouts": _listed("rollouts.model"),
        "WatchRollout": _READ,
        "GetRolloutTicks": _READ,
        "RollBack": _OPERATE,
    },
    "turnout.v1.RegistryService": {
        "BeginUpload": _on(AccessRole.PUBLISH),
        "UploadFiles": _upload(),
        "DescribeUpload": _upload(audited=False),  # clients ask for the progress of a publish again and again
        "PublishUpload": _upload(("release", AccessRole.OPERATE)),  # a released version answers requests
        "AbandonUpload": _upload(),
        "SignVersion": _on(AccessRole.PUBLISH),
        "DescribeVersion": _READ,
        "FetchVersion": _on(AccessRole.READ, audited=True),
    },
    "inference.GRPCInferenceService": {
        "ServerLive": PUBLIC,
        "ServerReady": PUBLIC,
        "ModelReady": _on(AccessRole.PREDICT, AccessRole.READ, field="name"),
        "ServerMetadata": KNOWN,
        "ModelMetadata": _on(AccessRole.PREDICT, AccessRole.READ, field="name"),
        "ModelInfer": INFERENCE,
        "ModelStreamInfer": INFERENCE,
        "ModelConfig": _on(AccessRole.PREDICT, AccessRole.READ, field="name"),
        "RepositoryIndex": _listed("models.name"),
        "RepositoryModelLoad": _on(AccessRole.OPERATE, field="model_name"),
        "RepositoryModelUnload": _on(AccessRole.OPERATE, field="model_name"),
        "SystemSharedMemoryStatus": _SHARED_MEMORY,
        "SystemSharedMemoryRegister": _SHARED_MEMORY,
        "SystemSharedMemoryUnregister": _SHARED_MEMORY,
        "CudaSharedMemoryStatus": KNOWN,  # CUDA regions are not supported, so there are none
        "CudaSharedMemoryRegister": KNOWN,
        "CudaSharedMemoryUnregister": KNOWN,
        "ModelStatistics": Need(ResourceKind.LISTED, (AccessRole.READ,), "name", paths=("model_stats.name",)),
        "TraceSetting": _TRACE,
        "LogSettings": _LOG,
    },
    "grpc.health.v1.Health": dict.fromkeys(
        ("Check", "Watch"), Need(ResourceKind.HEALTH, (AccessRole.PREDICT, AccessRole.READ), "service")
    ),
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": KNOWN},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": KNOWN},
    "grpc.channelz.v1.Channelz": dict.fromkeys(
        ("GetTopChannels", "GetServers", "GetServer", "GetServerSockets", "GetChannel", "GetSubchannel", "GetSocket"),
        _ADMIN,
    ),
}

METHODS: Mapping[str, Need] = {
    f"/{service}/{method}": need for service, methods in _SERVICES.items() for method, need in methods.items()
}
"""Permissions by the path of a gRPC method."""

_MODEL_OF_OIP = _on(AccessRole.PREDICT, AccessRole.READ)
_CONSOLE_PAGE = "/console/models/{model}"

ROUTES: Mapping[str, Need] = {
    "/livez": PUBLIC,
    "/readyz": Need(ResourceKind.PUBLIC, (AccessRole.READ,)),  # to others it names no model
    "/metrics": Need(ResourceKind.SERVER, (AccessRole.READ,)),
    "/predict/{model}": _on(AccessRole.PREDICT),
    "/predict/{model}/{selector}": _on(AccessRole.PREDICT),
    "/v1/rollouts/{model}": _READ,
    "/v1/rollouts/{model}/checks/{check}": _READ,
    "/v2": KNOWN,
    "/v2/health/live": PUBLIC,
    "/v2/health/ready": PUBLIC,
    **{
        f"/v2/models/{{model}}{version}{path}": _on(AccessRole.PREDICT) if path == "/infer" else _MODEL_OF_OIP
        for version in ("", "/versions/{selector}")
        for path in ("", "/ready", "/config", "/infer")
    },
    "/v2/models": _listed(),  # the endpoints themselves leave out models that the caller may not see
    "/v2/models/stats": _listed(),
    "/v2/models/{model}/stats": _READ,
    "/v2/models/{model}/versions/{selector}/stats": _READ,
    "/v2/repository/index": _listed(),
    "/v2/repository/models/{model}/load": _OPERATE,
    "/v2/repository/models/{model}/unload": _OPERATE,
    "/v2/logging": _LOG,
    "/v2/trace/setting": _TRACE,
    "/v2/models/{model}/trace/setting": _TRACE,
    **{
        f"/v2/{kind}{path}": need
        for kind, need in (("systemsharedmemory", _SHARED_MEMORY), ("cudasharedmemory", KNOWN))
        for path in (
            "/status",
            "/unregister",
            *(f"/region/{{name}}/{do}" for do in ("status", "register", "unregister")),
        )
    },
    "/": PUBLIC,
    "/console/": PUBLIC,
    "/console": Need(ResourceKind.LISTED, (AccessRole.READ,)),
    "/console/sign-in": PUBLIC,
    "/console/sign-out": PUBLIC,
    "/console/static/{name:path}": PUBLIC,
    **{f"{_CONSOLE_PAGE}{path}": _READ for path in ("", "/series.json", "/route", "/shadow", "/versions/{version}")},
    **{f"{_CONSOLE_PAGE}/rollouts/{{attempt}}{path}": _READ for path in ("", "/plots.json")},
    f"{_CONSOLE_PAGE}/rollouts/{{attempt}}/{{command}}": _OPERATE,
    "/console/{rest:path}": KNOWN,
}
"""Permissions by the path pattern of an HTTP route."""


def need_of(table: Mapping[str, Need], path: str) -> Need:
    """Returns the permissions that a method or route requires.

    Raises:
        LookupError: The table has no entry for it, so it must not be served.
    """
    try:
        return table[path]
    except KeyError:
        raise LookupError(f"turnout.auth.policy.permissions does not say who may call {path}") from None
