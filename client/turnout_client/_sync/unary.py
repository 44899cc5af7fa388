# Generated from _async/unary.py by client/unasync.py: change that one.
"""Sends each prediction as a unary call."""

from turnout_client._sync.connection import Connection
from turnout_client.wire import PredictCall
from turnout_proto.v1.prediction_pb2 import PredictRequest, PredictResponse


class UnaryTransport:
    """Sends each prediction as a separate call, which gRPC balances over the servers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Sends `call` and returns the response, which must arrive within `timeout` seconds; None for no limit.

        Raises:
            TurnoutClientError: The call ended with a status other than OK.
        """
        request = PredictRequest()
        call.write(request)
        method = self._connection.stubs.prediction.Predict
        return self._connection.invoke(method, request, timeout, call.request_id)

    def close(self) -> None:
        """Does nothing: unary calls end with the connection."""
