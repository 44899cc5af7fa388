"""Renders settings as TOML that gives the same settings when it is read again."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from turnout.config.settings import Settings
from turnout.config.tls import LISTENERS

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SECRET_PARAMETER = re.compile(
    r"((?:^|&)[^=&]*(?:password|passwd|secret|token|signature|api_?key|access_?key)[^=&]*=)[^&]*", re.IGNORECASE
)

WEBHOOKS = ("webhook_url", "confirm_url")
"""Keys of URLs that are secrets by their paths."""

_USER_PASSWORD = re.compile(r":[^:@\s]+@")


def render_toml(settings: Settings, origins: Mapping[str, str]) -> str:
    """Returns `settings` as TOML, with passwords as `***` and, in a comment, the origin of each non-default value."""
    return "".join(f"{line}\n" for line in _table(as_data(settings), "", origins))


def as_data(settings: Settings) -> dict[str, Any]:
    """Returns `settings` as plain values, with passwords as `***`. A model has only the settings that it overrides."""
    body = settings.model_dump(mode="json")
    body["state"] = settings.state_url
    for listener in LISTENERS:  # an unset key inherits the value of [tls], not the default
        body["tls"][listener] = getattr(settings.tls, listener).model_dump(mode="json", exclude_unset=True)
    body["model"] = settings.model_dump(mode="json", include={"model"}, exclude_unset=True).get("model", {})
    body["probe"] = settings.model_dump(mode="json", include={"probe"}, exclude_none=True).get("probe", {})
    plain: dict[str, Any] = without_passwords(body)
    return plain


def without_passwords(value: Any) -> Any:
    """Returns a plain value with the passwords in all URLs in it, at any depth, replaced with `***`."""
    if isinstance(value, dict):
        return {
            key: _without_path(without_passwords(item)) if key in WEBHOOKS else without_passwords(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_passwords(item) for item in value]
    if not isinstance(value, str):
        return value
    return redacted(value) if "://" in value else _USER_PASSWORD.sub(":***@", value)  # also covers malformed URLs


def _without_path(url: str) -> str:
    """Returns the URL of a webhook with its path as `***`, since for Slack, Teams and others the path is the secret."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/***")) if parts.path.strip("/") else url


def redacted(url: str) -> str:
    """Returns `url` with `***` for its password, secrets in its query and, for HTTP, its user (often a token)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    netloc = parts.netloc
    user, at, host = netloc.rpartition("@")
    if at and parts.scheme in ("http", "https"):
        netloc = f"***@{host}"
    elif ":" in user:
        netloc = f"{user.partition(':')[0]}:***@{host}"
    query = _SECRET_PARAMETER.sub(r"\1***", parts.query)
    # urlunsplit drops the empty authority of sqlite:///file, so a URL without secrets is returned unchanged.
    return (
        url
        if (netloc, query) == (parts.netloc, parts.query)
        else urlunsplit(parts._replace(netloc=netloc, query=query))
    )


def _table(table: Mapping[str, Any], prefix: str, origins: Mapping[str, str]) -> Iterator[str]:
    scalars = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if prefix and (scalars or not table):
        yield f"\n[{prefix[:-1]}]"
    for key, value in scalars.items():
        origin = origins.get(prefix + key)
        yield f"{_key(key)} = {value_text(value)}" + (f"  # {origin}" if origin else "")
    for key, value in table.items():
        if isinstance(value, dict) and (value or prefix):
            yield from _table(value, f"{prefix}{_key(key)}.", origins)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key)


def value_text(value: Any) -> str:
    """Returns a string, number, boolean, or list of them as TOML."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(value_text(item) for item in value)}]"
    return json.dumps(value)
