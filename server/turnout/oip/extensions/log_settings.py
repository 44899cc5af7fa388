"""Maps Triton's log settings to the settings of this server's log. Pure.

Triton can switch each severity on and off. This server's log has a single threshold, so `log_info` implies
`log_warning`, and errors are always written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from turnout.errors import InvalidRequest, Unsupported
from turnout.oip.parameters import Value

_FILE, _FORMAT, _VERBOSE = "log_file", "log_format", "log_verbose_level"
_INFO, _WARNING, _ERROR = "log_info", "log_warning", "log_error"
_DEFAULT = "default"
_FORMATS = ("json", "console")
_LEVELS = ("debug", "info", "warning", "error")
_MOST_VERBOSE = 2**32 - 1


@dataclass(frozen=True, slots=True)
class LogState:
    """The lowest severity (`debug`, `info`, `warning` or `error`) and the format (`json` or `console`) of a log."""

    level: str
    form: str


def as_triton(state: LogState) -> Mapping[str, bool | int | str]:
    """Returns the log's settings by Triton's names."""
    written = _LEVELS.index(state.level)
    return {
        _FILE: "",
        _INFO: written <= _LEVELS.index("info"),
        _WARNING: written <= _LEVELS.index("warning"),
        _ERROR: True,
        _VERBOSE: int(written == 0),
        _FORMAT: state.form,
    }


def changed(state: LogState, settings: Mapping[str, Value], configured: LogState) -> LogState:
    """Returns the new state of the log.

    `settings` are those to change, by Triton's names; None resets one to its value in `configured`, the server's
    settings.

    Raises:
        InvalidRequest: A setting or value does not exist in Triton, or settings contradict each other.
        Unsupported: This server does not support changing the setting.
    """
    known, defaults = as_triton(state), as_triton(configured)
    wanted = dict(known)
    for name, value in settings.items():
        if name not in known:
            raise InvalidRequest.at(_at(name), f"expected one of {', '.join(known)}")
        wanted[name] = _checked(name, defaults[name] if value is None else value, known[name])
    if _FORMAT in settings and settings[_FORMAT] == _DEFAULT:
        wanted[_FORMAT] = configured.form
    if wanted[_FORMAT] not in _FORMATS:
        raise InvalidRequest.at(
            _at(_FORMAT), f"expected {_DEFAULT} or {' or '.join(_FORMATS)}: all times are of ISO 8601"
        )
    if not wanted[_ERROR]:
        raise Unsupported(f"{_at(_ERROR)}: errors are always logged")
    if wanted[_FILE]:
        raise Unsupported(f"{_at(_FILE)}: the log goes to standard error, and further where clients have no say")
    verbose, info, warning = bool(wanted[_VERBOSE]), bool(wanted[_INFO]), bool(wanted[_WARNING])
    if (verbose and not info) or (info and not warning):
        raise InvalidRequest.at(
            _at(_VERBOSE if verbose and not info else _INFO),
            f"expected {_INFO} where {_VERBOSE} is above 0, and {_WARNING} where {_INFO} is: there is one threshold",
        )
    level = "debug" if verbose else "info" if info else "warning" if warning else "error"
    return replace(state, level=level, form=str(wanted[_FORMAT]))


def _checked(name: str, value: Value, now: bool | int | str) -> bool | int | str:
    """Returns the value of a setting. Raises InvalidRequest if its type differs from that of the current value."""
    if type(value) is not type(now):
        kinds: Mapping[type, str] = {bool: "true or false", int: "a whole number", str: "text"}
        raise InvalidRequest.at(_at(name), f"expected {kinds[type(now)]}")
    if isinstance(value, int) and not 0 <= value <= _MOST_VERBOSE:
        raise InvalidRequest.at(_at(name), f"expected 0 to {_MOST_VERBOSE}")
    return value


def _at(name: str) -> str:
    return f"settings.{name[:64]}"
