"""Maps Triton's trace settings to trace sampling. Pure.

Spans are sent to the OpenTelemetry collector in the server's own settings. Clients can change whether requests are
traced, and which share of them, for all models or for a single model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from turnout.errors import InvalidRequest, Unsupported

_LEVEL, _RATE, _COUNT = "trace_level", "trace_rate", "trace_count"
_FREQUENCY, _FILE, _MODE = "log_frequency", "trace_file", "trace_mode"
_OFF, _TIMESTAMPS = "OFF", "TIMESTAMPS"

_USUAL_RATE = 1000
"""Triton's default rate, which is reported if tracing is off."""

_MOST_RATE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which requests are traced. For a single model, None means that the value for all models applies.

    Attributes:
        on: Whether any requests are traced. If not, `ratio` has no effect.
        ratio: Share of requests to trace, 0 to 1, among those whose callers have made no sampling decision.
    """

    on: bool | None = None
    ratio: float | None = None

    def within(self, server: "Sampling") -> "Sampling":
        """Returns the effective sampling of a model, given the sampling of all models."""
        return Sampling(server.on if self.on is None else self.on, server.ratio if self.ratio is None else self.ratio)

    @property
    def share(self) -> float | None:
        """Share of requests to trace, 0 to 1; None if tracing is off even for requests whose callers ask for it."""
        return self.ratio if self.on else None


FOLLOWS = Sampling()
"""The sampling of a model without its own settings."""


def configured(ratio: float | None) -> Sampling:
    """Returns the sampling of all models configured in the server's settings; `ratio` is None if tracing is off."""
    return Sampling(False, 1 / _USUAL_RATE) if ratio is None else Sampling(True, ratio)


def as_triton(sampling: Sampling) -> Mapping[str, Sequence[str]]:
    """Returns trace settings by Triton's names."""
    rate = max(round(1 / sampling.ratio), 1) if sampling.ratio else 0
    return {
        _LEVEL: [_TIMESTAMPS if sampling.on else _OFF],
        _RATE: [str(rate)],
        _COUNT: ["-1"],
        _FREQUENCY: ["0"],
        _FILE: [""],
        _MODE: ["opentelemetry"],
    }


def changed(before: Sampling, settings: Mapping[str, Sequence[str]], beneath: Sampling, *, whole: bool) -> Sampling:
    """Returns the sampling after changes to one model, or with `whole` to all models.

    `settings` are by Triton's names. An empty value resets a setting, so that that of `beneath` applies.

    Raises:
        InvalidRequest: A setting or value does not exist in Triton.
        Unsupported: This server does not support changing the setting.
    """
    fixed = as_triton(before.within(beneath))
    after = before
    for name, values in settings.items():
        if name not in fixed:
            raise InvalidRequest.at(_at(name), f"expected one of {', '.join(fixed)}")
        if name == _LEVEL:
            after = replace(after, on=_on(values) if values else beneath.on if whole else None)
        elif name == _RATE:
            after = replace(after, ratio=_ratio(values) if values else beneath.ratio if whole else None)
        elif values and list(values) != list(fixed[name]):
            raise Unsupported(
                f"{_at(name)}: spans go to the collector that the server's settings name; it is {fixed[name][0]!r} and"
                " cannot be changed"
            )
    return after


def _on(values: Sequence[str]) -> bool:
    if list(values) not in ([_OFF], [_TIMESTAMPS]):
        raise InvalidRequest.at(_at(_LEVEL), f"expected {_TIMESTAMPS} or {_OFF}: spans hold times, and never tensors")
    return list(values) == [_TIMESTAMPS]


def _ratio(values: Sequence[str]) -> float:
    text = values[0]
    if len(values) > 1 or not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MOST_RATE):
        raise InvalidRequest.at(
            _at(_RATE), f"expected 0 to {_MOST_RATE}: of so many requests one is traced; 0: those that callers ask for"
        )
    return 1 / int(text) if int(text) else 0.0


def _at(name: str) -> str:
    return f"settings.{name[:64]}"
