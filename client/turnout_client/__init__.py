"""Calls a Turnout server from Python, blocking (`Client`) or on asyncio (`AsyncClient`).

    from turnout_client import Client

    with Client("127.0.0.1:8001", version="^3.2") as client:
        prediction = client.predict("magika", {"bytes": features})
        print(prediction["target_label"], prediction.version)

NumPy arrays go in and come out. The errors are in `turnout_client.errors`; all of them are a `TurnoutClientError`.
"""

from turnout_client._async.client import AsyncClient
from turnout_client._sync.client import Client
from turnout_client.config import Transport
from turnout_client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    ClientClosed,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    TurnoutClientError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
    Violation,
)
from turnout_client.model import (
    ModelInfo,
    Prediction,
    Role,
    Standing,
    TensorInfo,
    Timing,
    VersionInfo,
    VersionState,
)
from turnout_client.retry import RetryPolicy
from turnout_client.tls import Tls
from turnout_client.token import TokenFile

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "Client",
    "ClientClosed",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "ModelInfo",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "Prediction",
    "ResourceExhausted",
    "RetryPolicy",
    "Role",
    "Standing",
    "TensorInfo",
    "Timing",
    "Tls",
    "TokenFile",
    "Transport",
    "TurnoutClientError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "VersionInfo",
    "VersionState",
    "Violation",
]
