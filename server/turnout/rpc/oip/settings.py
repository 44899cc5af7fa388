"""Methods of the service for the logging and trace extensions."""

from collections.abc import Mapping

from turnout.auth.caller import actor_of
from turnout.oip.extensions.log_settings import Value
from turnout.oip.extensions.settings import ServerSettings, check_changes
from turnout.rpc.transport.port import RpcCall
from turnout_proto.oip import inference_pb2 as pb


class SettingsMethods:
    """Shows and changes logging and tracing settings. Each method also takes the call."""

    def __init__(self, settings: ServerSettings, *, allow_changes: bool) -> None:
        """Initializes the methods; `allow_changes` says whether clients of this listener may change settings."""
        self._settings = settings
        self._allow_changes = allow_changes

    async def LogSettings(self, request: pb.LogSettingsRequest, call: RpcCall) -> pb.LogSettingsResponse:  # noqa: N802 - gRPC's
        """Applies the logging settings in the request, if any, and returns all of them."""
        if request.settings:
            check_changes(allowed=self._allow_changes)
            await self._settings.change_log(_values(request.settings), actor_of(call.caller))
        response = pb.LogSettingsResponse()
        for name, value in self._settings.log().items():
            if isinstance(value, bool):
                response.settings[name].bool_param = value
            elif isinstance(value, int):
                response.settings[name].uint32_param = value
            else:
                response.settings[name].string_param = value
        return response

    async def TraceSetting(self, request: pb.TraceSettingRequest, call: RpcCall) -> pb.TraceSettingResponse:  # noqa: N802 - gRPC's
        """Applies the trace settings in the request, if any, to one model or to all, and returns the settings."""
        if request.settings:
            check_changes(allowed=self._allow_changes)
            settings = {name: list(setting.value) for name, setting in request.settings.items()}
            await self._settings.change_trace(request.model_name, settings, actor_of(call.caller))
        response = pb.TraceSettingResponse()
        for name, values in self._settings.trace(request.model_name).items():
            response.settings[name].value.extend(values)
        return response


def _values(settings: Mapping[str, pb.LogSettingsRequest.SettingValue]) -> Mapping[str, Value]:
    """Returns the values of settings by name; None for a setting without a value."""
    values: dict[str, Value] = {}
    for name, setting in settings.items():
        choice = setting.WhichOneof("parameter_choice")
        values[name] = getattr(setting, choice) if choice else None
    return values
