"""What a worker receives when it starts: everything as its parent has it, and no secret for anybody else to read."""

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr

from turnout.config import RepositoryUrl, Settings, SettingsSource, load_settings
from turnout.workers.division import share_of
from turnout.workers.start import Start

SECRET = "hunter2-hunter2-hunter2"

FULL = """
models = "/srv/models of 'all'"
state = "postgresql://me:hunter2-hunter2-hunter2@h:5432/db"
grpc = "[::1]:0"
http = "127.0.0.1:7"
workers = 3
read_only = true
server_name = "a:1"
[tls]
cert = "a.pem"
key = "b.pem"
[tls.http]
client_ca = "c.pem"
client_certificates = "required"
[auth]
enabled = true
[auth.jwt.corp]
issuer = "https://issuer.example"
audience = "a,b"
jwks = "https://issuer.example/keys"
algorithms = ["EdDSA"]
[limits]
max_message_bytes = "1GiB"
max_queue_requests = 7
[runtime]
providers = ["cuda", "cpu"]
device_ids = [0, 1]
arena_limit_bytes = "3MB"
[loading]
load = "on_demand"
[routing]
version_override_from = ["127.0.0.0/8", "::1"]
[shadow]
tolerances = { y = { atol = 0.1 } }
scores = { y = true }
[signing]
trusted_keys = ["trust.pem"]
[repository]
endpoint_url = "https://minio.example"
[rollout]
webhook_url = "https://hooks.example/hunter2-hunter2-hunter2"
webhook_secret = "hunter2-hunter2-hunter2"
[web]
hosts = ["turnout.example"]
[console]
token = "hunter2-hunter2-hunter2"
[tracing]
endpoint = "http://collector:4318"
sample_ratio = 0.5
[tracing.headers]
authorization = "hunter2-hunter2-hunter2"
[probe.errors]
url = "http://prometheus:9090"
query = "up"
fail_above = 0.5
bearer_token = "hunter2-hunter2-hunter2"
[probe.rate]
url = "https://api.example/rate"
headers = { x-key = "hunter2-hunter2-hunter2" }
[model.a]
load = "latest:2"
slo_ms = [1, 2.5]
limits.max_queue_requests = 512
[model."b.c"]
load = ["stable", ">=3.1 <4", "all"]
[model.d]
load = "all"
[model.e]
load = []
[model.f]
batching = {}
"""


def settings_of(text: str, tmp_path: Path) -> Settings:
    file = tmp_path / "turnout.toml"
    file.write_text(text)
    return load_settings(file, environ={}).settings


def start_of(settings: Settings, source: SettingsSource | None = None) -> Start:
    return Start(
        settings=settings,
        given=settings,
        source=source or SettingsSource(None, {}, False),
        index=1,
        control=False,
        waits=True,
        session_key=SecretStr(SECRET),
    )


def same(one: Any, other: Any) -> None:
    """Checks that two values are equal, with the types of all that is in them and what was given explicitly."""
    assert type(one) is type(other)
    if isinstance(one, BaseModel):
        assert one.model_fields_set == other.model_fields_set
        for name in type(one).model_fields:
            same(getattr(one, name), getattr(other, name))
    elif isinstance(one, Mapping):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    else:
        assert one == other


def kinds(annotation: Any) -> Iterator[str]:
    """Yields the kinds of values below an annotation: classes of values, `Literal` and generic classes."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif isinstance(annotation, type) and origin is None and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            yield from kinds(field.annotation)
    elif origin is Literal:
        yield "Literal"
    elif origin is None:
        yield annotation.__name__
    else:
        yield getattr(origin, "__name__", str(origin))
        for argument in get_args(annotation):
            if argument is not ...:
                yield from kinds(argument)


def kinds_of(value: Any, annotation: Any) -> Iterator[str]:
    """Yields the kinds of values of the settings that were given explicitly."""
    if isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield from kinds_of(getattr(value, name), type(value).model_fields[name].annotation)
    elif isinstance(value, Mapping):
        yield "Mapping"
        for item in value.values():
            yield from kinds_of(item, str if isinstance(item, str) else type(item))
    else:
        yield from kinds(annotation)


def test_settings_of_every_kind_arrive_as_they_are(tmp_path: Path) -> None:
    settings = settings_of(FULL, tmp_path)
    assert set(kinds(Settings)) - {"NoneType"} <= {*kinds_of(settings, Settings), "Mapping"}, "a kind is not in FULL"
    assert SECRET not in repr(settings)
    for sent in (settings, share_of(settings, 1), Settings()):
        start = start_of(sent)
        arrived = Start.decode(start.encode())
        same(arrived.settings, sent)
        same(arrived.given, sent)
        assert arrived == start


@pytest.mark.parametrize(
    "models", ["s3://bucket", "gs://bucket/a/b", "oci://[::1]:5000/team/models", "./models", "c:/m"]
)
def test_a_directory_stays_one_and_a_url_one(models: str) -> None:
    sent = Settings(models=models, state="sqlite:///x.db")
    arrived = Start.decode(start_of(sent).encode()).settings.models
    same(arrived, sent.models)
    assert isinstance(arrived, RepositoryUrl) == ("://" in models)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_default_that_was_given_is_not_a_default_that_was_not(name: str) -> None:
    """Of each model's section and of TLS, what was not given comes from elsewhere."""
    given = (
        Settings(**{name: Settings().model_dump()[name]}) if name not in ("tls", "auth") else Settings(tls={"key": ""})
    )
    arrived = Start.decode(start_of(given).encode()).settings
    same(arrived, given)
    assert arrived.model_fields_set != Settings().model_fields_set


def test_a_worker_reads_again_what_its_parent_read(tmp_path: Path) -> None:
    settings_of("[log]\nlevel = 'warning'", tmp_path)
    flags = {"grpc": None, "models": tmp_path / "m", "state": "sqlite:///x.db", "workers": 2, "insecure": True}
    source = SettingsSource(tmp_path / "turnout.toml", flags, True)
    arrived = Start.decode(start_of(source.read(), source).encode())
    assert arrived.source.config == source.config
    assert arrived.source.read() == source.read()


def test_a_configuration_may_have_a_name_that_is_no_utf_8() -> None:
    source = SettingsSource(Path("/tmp/caf\udce9.toml"), {}, False)
    assert Start.decode(start_of(Settings(), source).encode()).source == source


def test_no_text_of_what_a_worker_receives_has_a_secret(tmp_path: Path) -> None:
    start = start_of(
        settings_of(FULL, tmp_path), SettingsSource(None, {"state": f"postgresql://me:{SECRET}@h/db"}, False)
    )
    assert start.encode().count(SECRET.encode()) == 2 * FULL.count(SECRET) + 2, "each is on its way to the worker"
    for text in (repr(start), str(start), str(start.model_dump(mode="json", include={"session_key"}))):
        assert SECRET not in text


def test_no_error_about_what_a_worker_receives_has_a_secret(tmp_path: Path) -> None:
    sent = start_of(settings_of(FULL, tmp_path)).encode()
    for right, wrong in ((b'"errors"', b'"no probe"'), (b'"workers": 3', b'"workers": "x"'), (b'"waits"', b'"wait"')):
        assert right in sent
        with pytest.raises(ValueError, match="validation error") as error:
            Start.decode(sent.replace(right, wrong))
        assert SECRET not in "".join(traceback.format_exception(error.value))
    with pytest.raises(ValueError, match="delimiter") as error:
        Start.decode(sent[:-1])
    assert SECRET not in "".join(traceback.format_exception(error.value))


def test_a_value_that_json_cannot_carry_is_an_error() -> None:
    with pytest.raises(TypeError, match="got object"):
        start_of(Settings(), SettingsSource(None, {"x": object()}, False)).encode()
