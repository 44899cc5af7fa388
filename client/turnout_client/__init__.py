"""The Python client for Turnout servers: blocking (`Client`) or asyncio (`AsyncClient`).

    from turnout_client import Client

    with Client("127.0.0.1:8001", version="^3.2") as client:
        prediction = client.predict("magika", {"bytes": features})
        print(prediction["target_label"], prediction.version)

Inputs and outputs are NumPy arrays. Every error of a call is a `TurnoutClientError`; `turnout_client.errors` has the
whole tree.
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
