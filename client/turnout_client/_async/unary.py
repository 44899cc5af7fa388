"""Predictions as one unary call each."""

from turnout_client._async.connection import AsyncConnection
from turnout_client.wire import PredictCall
from turnout_proto.v1.prediction_pb2 import PredictRequest, PredictResponse


class AsyncUnaryTransport:
    """Sends each prediction as a call of its own, which gRPC balances over the servers."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Returns the answer to `call`, which may take `timeout` seconds.

        Raises:
            TurnoutClientError: As the status says.
        """
        request = PredictRequest()
        call.write(request)
        method = self._connection.stubs.prediction.Predict
        return await self._connection.invoke(method, request, timeout, call.request_id)

    async def aclose(self) -> None:
        """Holds nothing that needs an end."""
