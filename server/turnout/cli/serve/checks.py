"""The checks of `turnout doctor`. A failing check does not stop the others."""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import onnxruntime as ort

from turnout import __version__
from turnout.auth.credentials.jwks import KeySet
from turnout.auth.policy.policy_file import load_policy
from turnout.cli.serve.installation import unfit_text
from turnout.cli.workspace import repository_of
from turnout.config import (
    LISTENERS,
    LoadedSettings,
    Provider,
    Runtime,
    Settings,
    check_exposure,
    load_settings,
    open_to_anybody,
)
from turnout.config.rendering import redacted
from turnout.config.repository_url import NO_STATE, RepositoryUrl
from turnout.errors import ConfigError, TurnoutError
from turnout.host import cpu, memory
from turnout.serving.sessions import cuda_driver as cuda
from turnout.serving.sessions.providers import CPU, CUDA, TENSORRT, missing_cuda_libraries, probe, start_runtime
from turnout.state.database.engine import Database, Location
from turnout.text.quantities import count_text, size_text
from turnout.tls.certificates import read_identity
from turnout.tls.identity import utc_text

_SHORT = {CPU: Provider.CPU, CUDA: Provider.CUDA, TENSORRT: Provider.TENSORRT}


class Health(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    NOTE = "note"
    """Something is missing, but the configuration does not need it."""
    BROKEN = "broken"
    """The server cannot work as configured."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        detail: What was found and, if something is wrong, how to fix it.
    """

    name: str
    health: Health
    detail: str


def examine(config: Path | None, flags: Mapping[str, Any]) -> Iterator[Check]:
    """Checks everything that a server needs. Takes the arguments of `load_settings`."""
    start_runtime()
    yield from _installation()
    try:
        loaded = load_settings(config, flags)
    except ConfigError as error:
        yield Check("configuration", Health.BROKEN, error.message)
        yield from _providers(frozenset())
        yield _cuda_libraries()
        yield Check("the rest", Health.NOTE, "not checked, because the configuration cannot be read")
        return
    settings = loaded.settings
    yield Check("configuration", Health.OK, _sources(loaded))
    driver = cuda.cuda_driver()
    yield from _providers(_wanted(settings))
    yield _cuda_libraries()
    yield from _devices(driver, _wanted_devices(settings))
    yield from _repository(settings)
    yield _state(settings)
    yield from _tls(settings)
    yield _exposure(settings)
    yield _auth(settings)


def _sources(loaded: LoadedSettings) -> str:
    """Returns the file, flags and variables that the settings come from."""
    file = str(loaded.file) if loaded.file else "no file"
    others = sorted(set(loaded.origins.values()) - {str(loaded.file)})
    return "; ".join([file, *([", ".join(others)] if others else []), "defaults for the rest"])


def _installation() -> Iterator[Check]:
    yield Check("turnout", Health.OK, __version__)
    yield Check("python", Health.OK, f"{platform.python_version()} ({platform.python_implementation()})")
    available = memory.available_memory()
    described = size_text(memory.memory_limit()) + (f", {size_text(available)} of it free" if available else "")
    yield Check(
        "machine", Health.OK, f"{platform.system()} {platform.machine()}, {cpu.usable_cores():g} cores, {described}"
    )
    yield Check("onnxruntime", Health.OK, f"{ort.__version__}, its telemetry turned off")
    yield _packages()


def _packages() -> Check:
    """Imports what a server and its client need, which packages of other releases may prevent."""
    try:
        for module in ("turnout.app.server", "turnout_client"):
            import_module(module)
    except Exception as error:
        if (text := unfit_text(error)) is None:
            raise
        return Check("packages", Health.BROKEN, text)
    return Check("packages", Health.OK, "they fit together")


def _wanted(settings: Settings) -> frozenset[Provider]:
    """Returns the providers named in the configuration."""
    named = (runtime.providers for runtime in _runtimes(settings))
    return frozenset(provider for providers in named if providers != "auto" for provider in providers)


def _wanted_devices(settings: Settings) -> frozenset[int]:
    """Returns the indices of the devices that must exist: those of runtimes that require a GPU."""
    return frozenset(
        device
        for runtime in _runtimes(settings)
        if runtime.providers != "auto" and set(runtime.providers) & {Provider.CUDA, Provider.TENSORRT}
        for device in runtime.device_ids
    )


def _runtimes(settings: Settings) -> list[Runtime]:
    return [settings.runtime, *(settings.for_model(name).runtime for name in settings.model)]


def _providers(wanted: frozenset[Provider]) -> Iterator[Check]:
    for report in probe():
        short = _SHORT[report.name]
        needed = short is Provider.CPU or short in wanted
        if report.usable:
            yield Check(short, Health.OK, "a session really runs on it")
        else:
            asked = "; the configuration asks for it" if short in wanted else ""
            yield Check(short, Health.BROKEN if needed else Health.NOTE, report.detail + asked)


def _cuda_libraries() -> Check:
    if CUDA not in ort.get_available_providers():
        return Check("cuda libraries", Health.NOTE, "this build of ONNX Runtime has no use for them")
    missing = missing_cuda_libraries()
    if missing:
        return Check(
            "cuda libraries", Health.NOTE, f"not found: {', '.join(missing)}; they come with pip install 'turnout[gpu]'"
        )
    return Check("cuda libraries", Health.OK, "all found")


def _devices(driver: cuda.CudaDriver, wanted: frozenset[int]) -> Iterator[Check]:
    if not driver.devices:
        yield Check("cuda devices", Health.BROKEN if wanted else Health.NOTE, driver.detail)
        return
    for device in driver.devices:
        detail = f"{device.name}, {size_text(device.memory_bytes)}, compute capability {device.capability}"
        yield Check(f"cuda:{device.index}", Health.OK, f"{detail}, driver for CUDA up to {driver.version}")
    for index in sorted(wanted - {device.index for device in driver.devices}):
        yield Check(
            f"cuda:{index}", Health.BROKEN, "the configuration asks for it, and the driver names no such device"
        )


def _repository(settings: Settings) -> Iterator[Check]:
    root = settings.models
    if isinstance(root, Path) and not root.is_dir():
        yield Check("repository", Health.NOTE, f"{root} does not exist yet; publishing creates it")
        return
    try:
        listing = repository_of(settings).scan()
    except OSError as error:
        yield Check("repository", Health.BROKEN, f"{root} cannot be read: {error.strerror}")
        return
    except ConfigError as error:
        yield Check("repository", Health.BROKEN, error.message)
        return
    if listing.away:
        yield Check("repository", Health.BROKEN, f"{root} {listing.away}")
    writable = "" if isinstance(root, RepositoryUrl) or os.access(root, os.W_OK) else ", read-only for this user"
    detail = (
        f"{root}: {count_text(len(listing.models), 'model')}, {count_text(len(listing.published), 'version')}{writable}"
    )
    yield Check("repository", Health.OK, detail)
    for problem in listing.problems:
        yield Check("repository", Health.NOTE, str(problem))
    known_names = {name.lower() for name in listing.models}
    for name in sorted(name for name in settings.model if name.lower() not in known_names):
        known = f"; nearest: {near[0]}" if (near := get_close_matches(name, listing.models, n=1)) else ""
        yield Check("configuration", Health.NOTE, f"[model.{name}] matches no model of the repository{known}")


def _state(settings: Settings) -> Check:
    if settings.read_only and not settings.state:
        return Check("state store", Health.OK, "in memory: the repository is read-only, and no state store is named")
    if not settings.state_url:
        return Check("state store", Health.BROKEN, NO_STATE.format(settings.models))
    displayed = redacted(settings.state_url)
    try:
        location = Location.parse(settings.state_url)
        file = location.url.database if location.url.drivername == "sqlite" else None
        if file and not Path(file).exists():
            return Check("state store", Health.OK, f"{displayed} will be created when it is first needed")
        Database(location).close()
    except TurnoutError as error:
        return Check("state store", Health.BROKEN, error.message)
    return Check("state store", Health.OK, f"{displayed} answers")


def _tls(settings: Settings) -> Iterator[Check]:
    for listener in LISTENERS:
        name = f"tls {listener}"
        try:
            identity = read_identity(settings.tls, listener)
        except TurnoutError as error:
            yield Check(name, Health.BROKEN, error.message)
            continue
        if identity is None:
            yield Check(name, Health.OK, "plain text, as configured")
        elif identity.warnings:
            yield Check(name, Health.NOTE, "; ".join(identity.warnings))
        else:
            asked = f"; client certificates: {identity.client_certificates}"
            yield Check(name, Health.OK, f"{identity.subject}, valid until {utc_text(identity.expires)}{asked}")


def _exposure(settings: Settings) -> Check:
    try:
        check_exposure(settings)
    except ConfigError as error:
        return Check("listeners", Health.BROKEN, error.message)
    if found := open_to_anybody(settings):
        return Check("listeners", Health.NOTE, f"open to anybody, since insecure is set: {', '.join(found)}")
    return Check("listeners", Health.OK, "on loopback, or with TLS and identities")


def _auth(settings: Settings) -> Check:
    auth = settings.auth
    if not auth.enabled:
        return Check("auth", Health.OK, "off: callers are not authenticated")
    try:
        policy = load_policy(auth.policy)
        for name, issuer in auth.jwt.items():
            KeySet(name, issuer).fetch()
    except ConfigError as error:
        return Check("auth", Health.BROKEN, error.message)
    issuers = f", JWTs of {', '.join(auth.jwt)}" if auth.jwt else ""
    return Check(
        "auth",
        Health.OK,
        f"{count_text(len(policy.grants), 'grant')}, {count_text(len(policy.limits), 'limit')}{issuers}",
    )
