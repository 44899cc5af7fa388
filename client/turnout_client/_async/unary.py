"""Sends each prediction as a unary call."""

from turnout_client._async.connection import AsyncConnection
from turnout_client.wire import PredictCall
from turnout_proto.v1.prediction_pb2 import PredictRequest, PredictResponse


class AsyncUnaryTransport:
    """Sends each prediction as a separate call, which gRPC balances over the servers."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def predict(self, call: PredictCall, timeout: float | None) -> PredictResponse:
        """Sends `call` and returns the response, which must arrive within `timeout` seconds; None for no limit.

        Raises:
            TurnoutClientError: The call ended with a status other than OK.
        """
        request = PredictRequest()
        call.write(request)
        method = self._connection.stubs.prediction.Predict
        return await self._connection.invoke(method, request, timeout, call.request_id)

    async def aclose(self) -> None:
        """Does nothing: unary calls end with the connection."""
