# Generated from _async/unary.py by client/unasync.py: change that one.
"""Predictions as one unary call each."""

from turnout_client._sync.connection import Connection
from turnout_client.wire import PredictCall
from turnout_proto.v1.prediction_pb2 import PredictRequest, PredictResponse


class UnaryTransport:
    """Sends each prediction as a call of its own, which gRPC balances over the servers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Returns the answer to `call`, which may take `timeout` seconds.

        Raises:
            TurnoutClientError: As the status says.
        """
        request = PredictRequest()
        call.write(request)
        method = self._connection.stubs.prediction.Predict
        return self._connection.invoke(method, request, timeout, call.request_id)

    def close(self) -> None:
        """Holds nothing that needs an end."""
