"""Logging and tracing settings that clients can read and change. Changes apply to all workers until the server ends."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, PermissionDeniedError
from turnout.oip.extensions import log_settings, trace_settings
from turnout.oip.extensions.log_settings import LogState
from turnout.oip.extensions.trace_settings import FOLLOWS, Sampling
from turnout.oip.parameters import Value
from turnout.serving.versions.catalog import Catalog
from turnout.telemetry.logging import LogForm, Threshold
from turnout.telemetry.tracing.tracer import Tracer
from turnout.workers.peers import Peers

_TOPIC = "settings"


class ServerSettings:
    """The logging and tracing settings of a server. Used on the event loop only."""

    def __init__(
        self,
        threshold: Threshold,
        form: LogForm,
        tracer: Tracer | None,
        catalog: Catalog,
        peers: Peers | None,
        log: FilteringBoundLogger,
    ) -> None:
        """Initializes the settings. The current values are taken as the configured ones."""
        self._log = log
        self._threshold = threshold
        self._form = form
        self._tracer = tracer
        self._catalog = catalog
        self._peers = peers
        self._configured_form = form.name
        self._sampling = self._configured = trace_settings.configured(None if tracer is None else tracer.sample_ratio)
        self._models: dict[str, Sampling] = {}
        if peers is not None:
            peers.answers(_TOPIC, self._on_message)

    def log(self) -> Mapping[str, bool | int | str]:
        """Returns the log's settings by Triton's names."""
        return log_settings.as_triton(LogState(self._threshold.level, self._form.name))

    async def change_log(self, settings: Mapping[str, Value], actor: str) -> None:
        """Changes the log's settings. A reload of the server's own settings resets the level.

        None resets a setting to its configured value.

        Raises:
            InvalidRequest, Unsupported: As for `log_settings.changed`.
            UnavailableError: Another worker could not apply the change.
        """
        configured = LogState(self._threshold.configured, self._configured_form)
        after = log_settings.changed(LogState(self._threshold.level, self._form.name), settings, configured)
        self._set_log(after.level, after.form)
        self._log.info("log settings changed", threshold=after.level, format=after.form, actor=actor)
        await self._broadcast("log", after.level, after.form)

    def trace(self, model: str = "") -> Mapping[str, Sequence[str]]:
        """Returns the trace settings of a model, or those of all models, by Triton's names.

        Raises:
            ModelNotFound: The model does not exist.
        """
        return trace_settings.as_triton(self._of(model).within(self._sampling))

    async def change_trace(self, model: str, settings: Mapping[str, Sequence[str]], actor: str) -> None:
        """Changes the trace settings of a model; of all models without their own settings if `model` is "".

        `settings` are by Triton's names. An empty value resets a setting of a model to that of all models, and a
        setting of all models to its configured value. `actor` is logged.

        Raises:
            ModelNotFound: The model does not exist.
            InvalidRequest, Unsupported: As for `trace_settings.changed`.
            ChangeRefused: Tracing is off.
            UnavailableError: Another worker could not apply the change.
        """
        beneath = self._sampling if model else self._configured
        after = trace_settings.changed(self._of(model), settings, beneath, whole=not model)
        if self._tracer is None:
            raise ChangeRefused("tracing is off: name a collector in tracing.endpoint and start the server anew")
        self._set_trace(model, after.on, after.ratio)
        reply = trace_settings.as_triton(after.within(self._sampling))
        self._log.info(
            "trace settings changed", model=model, traced=reply["trace_level"], rate=reply["trace_rate"], actor=actor
        )
        await self._broadcast("trace", model, after.on, after.ratio)

    async def catch_up(self) -> None:
        """Copies the settings from workers that were started earlier."""
        if self._peers is None:
            return
        for reply in (await self._peers.ask(_TOPIC, b'["list"]')).values():
            for kind, *values in json.loads(reply):
                self._set(kind, values)

    def _of(self, model: str) -> Sampling:
        if not model:
            return self._sampling
        return self._models.get(self._catalog.snapshot.model(model).name, FOLLOWS)

    def _set_log(self, level: str, form: str) -> None:
        self._threshold.set(level)
        self._form.set(form)

    def _set_trace(self, model: str, on: bool | None, ratio: float | None) -> None:
        sampling = Sampling(on, ratio)
        if not model:
            self._sampling = sampling
        elif sampling == FOLLOWS:
            self._models.pop(model, None)
        else:
            self._models[model] = sampling
        if self._tracer is not None:
            by_model = {name: own.within(self._sampling).share for name, own in self._models.items()}
            self._tracer.sample(self._sampling.share, by_model)

    def _set(self, kind: str, values: Sequence[Any]) -> None:
        if kind == "log":
            self._set_log(*values)
        else:
            self._set_trace(*values)

    async def _broadcast(self, kind: str, *values: str | float | None) -> None:
        if self._peers is not None:
            await self._peers.broadcast(_TOPIC, json.dumps([kind, *values]).encode())

    async def _on_message(self, body: bytes) -> bytes:
        kind, *values = json.loads(body)
        if kind != "list":
            self._set(kind, values)
            return b""
        traces = [("trace", "", self._sampling), *(("trace", name, own) for name, own in self._models.items())]
        own = [["log", self._threshold.level, self._form.name]]
        return json.dumps([*own, *([kind, name, s.on, s.ratio] for kind, name, s in traces)]).encode()


def check_changes(*, allowed: bool) -> None:
    """Raises PermissionDeniedError if the listener does not allow clients to change settings."""
    if not allowed:
        raise PermissionDeniedError(
            "settings are not changed on this listener: ask the control listener, or set oip.allow_settings_changes"
        )
