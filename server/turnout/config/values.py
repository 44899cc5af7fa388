"""The value types of settings, and how they are parsed from text and TOML."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PlainSerializer, PlainValidator, SecretStr
from pydantic_settings import NoDecode

from turnout.address import Address

ValueT = TypeVar("ValueT", str, Path)


@dataclass(frozen=True, slots=True)
class LoadAll:
    """Loads every version of the model."""

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, slots=True)
class LoadLatest:
    """Loads the `count` highest releases, newer candidates, and tagged versions."""

    count: int

    def __str__(self) -> str:
        return f"latest:{self.count}"


@dataclass(frozen=True, slots=True)
class LoadSelectors:
    """Loads the versions that the `selectors` resolve to. Without selectors, only operators load versions."""

    selectors: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.selectors)


@dataclass(frozen=True, slots=True)
class LoadOnDemand:
    """Loads the default version and tagged versions, and every other version when it is first requested."""

    def __str__(self) -> str:
        return "on_demand"


Network = IPv4Network | IPv6Network

Load = LoadAll | LoadLatest | LoadSelectors | LoadOnDemand


class Provider(StrEnum):
    """An execution provider that ONNX Runtime sessions can run on."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


def _parse_address(value: Any) -> Address:
    if isinstance(value, Address):
        return value
    return Address.parse(value if isinstance(value, str) else "")


def _parse_load(value: Any) -> Load:
    value = listed(value) if isinstance(value, str) and value.startswith("[") else value
    if isinstance(value, LoadAll | LoadLatest | LoadSelectors | LoadOnDemand):
        return value
    if value == "all":
        return LoadAll()
    if value == "on_demand":
        return LoadOnDemand()
    if isinstance(value, str) and (match := re.fullmatch(r"latest:([1-9][0-9]{0,5})", value)):
        return LoadLatest(int(match[1]))
    if isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value):
        return LoadSelectors(tuple(value))
    raise ValueError('expected "all", "latest:N" with N of 1 or more, "on_demand", or a list of selectors')


def listed(value: Any) -> Any:
    """Parses a list given as text, `a,b` or `["a", "b"]`, as in an environment variable. Other values are kept."""
    if not isinstance(value, str):
        return value
    if not value.startswith("["):
        return [item.strip() for item in value.split(",")]
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise ValueError("expected a list") from None


def _parse_providers(value: Any) -> Literal["auto"] | tuple[Provider, ...]:
    if value == "auto":
        return "auto"
    names = listed(value)
    if isinstance(names, list | tuple) and names and all(name in list(Provider) for name in names):
        return tuple(Provider(name) for name in names)
    raise ValueError(f'expected "auto" or a list of {", ".join(Provider)}')


def plain_text(value: ValueT) -> ValueT:
    """Returns `value` if it is valid UTF-8 without NUL bytes, so that it can be printed and used as a path.

    Raises:
        ValueError: It is not.
    """
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    if "\0" in str(value):
        raise ValueError("expected text without NUL bytes")
    return value


def _parse_url(value: Any) -> str:
    if isinstance(value, str) and (not value or re.match(r"[a-z0-9]+(\+[a-z0-9]+)?:", value)):
        return value
    raise ValueError("expected a database URL, such as sqlite:///state.db or postgresql://user@host/database")


def _parse_networks(value: Any) -> tuple[Network, ...]:
    names = listed(value) if value else []
    if not isinstance(names, list | tuple):
        raise ValueError("expected a list of networks, such as 127.0.0.0/8 or ::1")
    try:
        return tuple(ip_network(str(name)) for name in names)
    except ValueError as error:
        raise ValueError(f"expected networks, such as 127.0.0.0/8 or ::1: {error}") from None


def _each_once(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError("expected each device once")
    return values


def _host_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", name):
        raise ValueError("expected a host's name in lower case and without a port, such as turnout.example.org")
    return name


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read true as 1
        raise ValueError("expected a number")
    return value


def _long_enough(secret: SecretStr) -> SecretStr:
    if 0 < len(secret.get_secret_value()) < LEAST_TOKEN:
        raise ValueError(f"expected at least {LEAST_TOKEN} characters, or none")
    return secret


def http_url(url: str, expected: str, of_user: str, *, query: bool = False) -> str:
    """Returns `url` unchanged if it is a valid HTTP or HTTPS URL, with a query only if `query` says so.

    Raises:
        ValueError: The URL is invalid, with one of the two messages.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises if it is not a port
    except ValueError:
        raise ValueError(expected) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or (parts.query and not query):
        raise ValueError(expected)
    if "@" in parts.netloc:
        raise ValueError(of_user)
    return url


def _optional_url(value: Any, expected: str, of_user: str) -> str:
    return "" if value == "" else http_url(value if isinstance(value, str) else "?", expected, of_user)


def _parse_endpoint(value: Any) -> str:
    return _optional_url(
        value,
        "expected an OTLP endpoint, such as http://collector:4318",
        "expected an OTLP endpoint without a password; put what proves who you are in tracing.headers",
    )


def _parse_http_url(value: Any) -> str:
    expected = "expected a URL such as https://minio.example.org:9000"
    return _optional_url(value, expected, "expected a URL without a user or password").rstrip("/")


def _header_name(name: str) -> str:
    if not re.fullmatch(r"(?!grpc-|content-|host$|te$)[a-z0-9][a-z0-9_.-]{0,126}(?<!-bin)", name):
        raise ValueError("expected the name of a header in lower case, such as authorization")
    return name


def _header_value(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", secret.get_secret_value()):
        raise ValueError("expected printable ASCII")
    return secret


LEAST_TOKEN = 16
"""Minimum length of a token, in characters, so that it cannot be guessed."""

FilePath = Annotated[str, Field(max_length=4096), AfterValidator(plain_text)]
AddressField = Annotated[Address, NoDecode, PlainValidator(_parse_address), PlainSerializer(str)]
LoadField = Annotated[
    Load,
    NoDecode,
    PlainValidator(_parse_load),
    PlainSerializer(lambda load: list(load.selectors) if isinstance(load, LoadSelectors) else str(load)),
]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
CountOrNone = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Duration = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1)]
Size = Annotated[ByteSize, BeforeValidator(_no_bool), Field(ge=1)]
SizeOrNone = Annotated[ByteSize, BeforeValidator(_no_bool), Field(ge=0)]
Providers = Annotated[
    Literal["auto"] | tuple[Provider, ...],
    NoDecode,
    PlainValidator(_parse_providers),
    PlainSerializer(lambda providers: providers if providers == "auto" else list(map(str, providers))),
]
Networks = Annotated[
    tuple[Network, ...],
    NoDecode,
    PlainValidator(_parse_networks),
    PlainSerializer(lambda networks: list(map(str, networks))),
]
Token = Annotated[SecretStr, AfterValidator(_long_enough)]
HttpUrl = Annotated[str, PlainValidator(_parse_http_url)]
OtlpEndpoint = Annotated[str, PlainValidator(_parse_endpoint)]
HostNames = Annotated[tuple[Annotated[str, AfterValidator(_host_name)], ...], NoDecode, BeforeValidator(listed)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
DatabaseUrl = Annotated[str, PlainValidator(_parse_url), AfterValidator(plain_text)]
Durations = Annotated[tuple[Duration, ...], NoDecode, BeforeValidator(listed)]
DeviceIds = Annotated[
    tuple[CountOrNone, ...], NoDecode, BeforeValidator(listed), Field(min_length=1), AfterValidator(_each_once)
]
