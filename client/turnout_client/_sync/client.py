# Generated from _async/client.py by client/unasync.py: change that one.
"""The client: predictions, the model catalog and readiness."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import grpc
from numpy.typing import ArrayLike

from turnout_client._sync.connection import Connection
from turnout_client._sync.readiness import wait_until_serving
from turnout_client._sync.stream import StreamTransport
from turnout_client.config import Metadata, Options, Transport, channel_options, checked_metadata, checked_target
from turnout_client.errors import TurnoutClientError, after_failure
from turnout_client.model import ModelInfo, Prediction, VersionInfo
from turnout_client.retry import RetryAttempts, RetryBudget, RetryPolicy
from turnout_client.tls import Security, Tls
from turnout_client.token import Token, bearer_of
from turnout_client.wire import PredictCall, read_model, read_prediction, read_version
from turnout_proto.v1.catalog_pb2 import GetModelRequest, GetVersionRequest, ListModelsRequest
from turnout_proto.v1.prediction_pb2 import PredictRequest, PredictResponse

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Client:
    """A client of a Turnout server. It can be shared by the threads of a process.

        with Client("127.0.0.1:8001", version="^3.2") as client:
            prediction = client.predict("magika", {"bytes": features})
            prediction["target_label"], prediction.version

    The connection is opened by the first call. A call is retried if it ends with UNAVAILABLE, or with
    RESOURCE_EXHAUSTED if the server says when to retry. The timeout of a call covers all of its attempts.

    Args:
        target: `HOST:PORT`, `dns:///HOST:PORT`, `unix:PATH`, or several addresses as `ipv4:HOST:PORT,HOST:PORT`, which
            are used in round-robin order.
        version: Default selector of predictions: an exact version, a range, a digest or a tag; "" leaves the choice to
            the server.
        timeout: Default time limit of a call, in seconds; None for no limit.
        transport: "unary" makes one gRPC call for each prediction. "stream" sends all predictions over one stream to
            one server. With a small model and 16 requests in flight, it was measured at 1.8 times the throughput of
            "unary" on asyncio, and 1.3 times with threads.
        retries: Maximum number of retries of a call, or a whole retry policy.
        tls: The certificate authorities to trust and the client certificate to present; None for plain text.
        credentials: gRPC channel credentials, instead of `tls`, for settings that `Tls` does not have.
        token: The token or JWT that is sent with each call, or a function that returns the current one, such as a
            `TokenFile`.
        plaintext_token: Whether the token may be sent unencrypted to other machines.
        metadata: Metadata sent with each call. The current OpenTelemetry span, if any, is sent as well.
        options: gRPC channel arguments. They override the client's defaults.

    Raises:
        ValueError: The target, transport, metadata or number of retries is invalid, a file of `tls` cannot be used, or
            the token would be sent unencrypted to another machine.
    """

    def __init__(
        self,
        target: str,
        *,
        version: str = "",
        timeout: float | None = 10.0,
        transport: Transport = "unary",
        retries: int | RetryPolicy = 3,
        tls: Tls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
        plaintext_token: bool = False,
        metadata: Metadata = (),
        options: Options = (),
    ) -> None:
        if transport not in ("unary", "stream"):
            raise ValueError(f"expected the transport 'unary' or 'stream', got {transport!r}")
        self._version = version
        self._timeout = timeout
        self._policy = retries if isinstance(retries, RetryPolicy) else RetryPolicy(retries)
        self._budget = RetryBudget(self._policy)
        security = Security.of(tls, credentials)
        target = checked_target(target)
        options = channel_options((*security.options, *options), target)
        metadata = checked_metadata(metadata)
        bearer = bearer_of(token, target, metadata, plain=security.plain, plaintext_token=plaintext_token)
        self._connection = Connection(target, security, options, metadata, bearer)
        self._stream = StreamTransport(self._connection) if transport == "stream" else None

    def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        routing_key: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Prediction:
        """Runs `model` on `inputs` and returns its outputs, with the version that answered.

        Args:
            model: Name of the model.
            inputs: Input values by name. NumPy arrays keep their dtype; any memory layout and byte order is accepted.
                Other values are converted with `numpy.asarray`, so that a list of Python floats becomes float64.
            version: Version selector; None for the client's default.
            outputs: Names of the outputs to return, in order; () for all.
            routing_key: Requests with the same key get the same version for as long as the weights allow it.
            request_id: Id of the request in the server's log. On a stream, an id that another pending request uses is
                replaced by a generated one.
            timeout: Time limit of the call and all its retries, in seconds; None for the client's default, infinity for
                no limit.

        Raises:
            InvalidArgument: The selector is malformed, or an input does not match the model's signature.
            NotFound: The model or version does not exist.
            FailedPrecondition: The version is not in service.
            Unavailable, ResourceExhausted: The server could not answer within the allowed time and attempts.
            DeadlineExceeded: The timeout passed.
            Internal: The model failed.
            TurnoutClientError: The call ended with any other status; `turnout_client.errors` has the whole tree.
        """
        if isinstance(outputs, str):
            raise TypeError(f"expected a sequence of output names, got the string {outputs!r}")
        selector = self._version if version is None else version
        call = PredictCall(model, selector, inputs, outputs, request_id, routing_key)
        send = self._call if self._stream is None else self._stream.predict
        return read_prediction(self._retried(send, call, timeout))

    def models(self, *, timeout: float | None = None) -> tuple[ModelInfo, ...]:
        """Returns all models on the server, sorted by name.

        Raises:
            TurnoutClientError: As for `predict`.
        """
        stub = self._connection.stubs.catalog
        response = self._fetch(stub.ListModels, ListModelsRequest(), timeout)
        return tuple(read_model(model) for model in response.models)

    def get_model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """Returns the model `name` with all its versions.

        Raises:
            NotFound: The model does not exist; the message suggests similar names.
            TurnoutClientError: As for `predict`.
        """
        stub = self._connection.stubs.catalog
        response = self._fetch(stub.GetModel, GetModelRequest(model=name), timeout)
        return read_model(response.model)

    def get_version(self, name: str, selector: str = "", *, timeout: float | None = None) -> VersionInfo:
        """Returns the version that `selector` resolves to, whatever its state.

        Raises:
            InvalidArgument: The selector cannot be parsed.
            NotFound: The model does not exist, or no version matches the selector.
            TurnoutClientError: As for `predict`.
        """
        stub = self._connection.stubs.catalog
        response = self._fetch(stub.GetVersion, GetVersionRequest(model=name, version=selector), timeout)
        return read_version(response.version)

    def wait_ready(self, model: str | None = None, selector: str = "", *, timeout: float | None = 60.0) -> None:
        """Waits until the server, or the version of `model` that `selector` selects, is ready.

        The server need not be running yet, and the model need not exist yet. If the target has several addresses, only
        one of them is asked.

        Args:
            model: Name of the model; None waits for the server as a whole.
            selector: Version selector, as in `predict`; "" for the version that the server chooses.
            timeout: Maximum time to wait, in seconds; None or infinity for no limit.

        Raises:
            DeadlineExceeded: It was not ready in time; the message has the last status that the server reported.
            TurnoutClientError: The server has no health service, or denies access to this caller.
        """
        if model is None and selector:
            raise ValueError(f"the selector {selector!r} needs a model")
        service = "" if model is None else f"model:{model}"
        wait_until_serving(self._connection, f"{service}@{selector}" if selector else service, timeout)

    def close(self) -> None:
        """Closes the channel. Pending calls end with `Cancelled`. Closing a closed client does nothing."""
        if self._stream is not None:
            self._stream.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"expected one {type(self).__name__} in each process; it cannot be copied or pickled")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Sends a prediction as a call of its own, which gRPC balances over the servers."""
        request = PredictRequest()
        call.write(request)
        method = self._connection.stubs.prediction.Predict
        return self._connection.invoke(method, request, timeout, call.request_id)

    def _fetch(
        self,
        method: "grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]",
        request: RequestT,
        timeout: float | None,
    ) -> ResponseT:
        return self._retried(partial(self._connection.invoke, method), request, timeout)

    def _retried(
        self,
        send: "Callable[[RequestT, float | None], ResponseT]",
        request: RequestT,
        timeout: float | None,
    ) -> ResponseT:
        attempts = RetryAttempts(self._policy, self._timeout if timeout is None else timeout, self._budget)
        failure: TurnoutClientError | None = None
        while True:
            try:
                response = send(request, attempts.remaining())
            except TurnoutClientError as error:
                self._connection.failed(error)
                pause = attempts.pause_after(error)
                if pause is None:
                    if failure is not None:
                        failure = self._connection.explained(failure, 0.0)
                    error = self._connection.explained(error, attempts.left())
                    raise after_failure(error, failure)  # noqa: B904 - the cause is already set
                failure = error
            else:
                self._budget.refill()
                return response
            self._connection.pause(pause)
