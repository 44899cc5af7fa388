"""Opens the components that all others use: settings, certificates, the repository, the state store and more."""

from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from turnout.app.authorization import open_authority
from turnout.app.read_only import Mount, forgets, open_repository, with_state
from turnout.app.startup import prepare_log, prepare_repository, store_is_new
from turnout.auth.authority import Authority
from turnout.config import ModelTable, Settings, with_secrets
from turnout.registry.mounted.repository import MountedRepository
from turnout.registry.storage.repository import Repository
from turnout.rollout.clock import Clock
from turnout.scratch import Scratch
from turnout.serving.sandbox.fork_server import start_processes
from turnout.serving.sandbox.processes import Processes
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.serving.sessions import providers
from turnout.serving.sessions.memory import pci_addresses
from turnout.serving.sessions.nvml import Nvml
from turnout.serving.versions.catalog import Catalog
from turnout.state.store import StateStore
from turnout.telemetry.library_logs import LibraryLogs
from turnout.telemetry.metrics.gpu import Gpu
from turnout.telemetry.metrics.versions import Metrics
from turnout.threads import Threads
from turnout.tls.certificates import Certificates


@dataclass(frozen=True, slots=True)
class Foundation:
    """The components that all other components of a server use.

    Attributes:
        settings: Settings in force, including secrets from files and the URL of the state store.
        models: Settings of single models, which a reload changes.
        clock: Clock of rollouts and of events in the state store.
        authority: Authorizes callers; None if `[auth]` is not enabled.
        scratch: Temporary directories that are removed at the end.
        processes: Starts child processes for trial runs and isolated versions.
        nvml: NVIDIA's driver library; None if there is none.
        mount: Follows a read-only repository; None if versions are published here.
        new_store: Whether the state store is new although the repository contains versions.
        starting: Threads for blocking work while the server starts.
    """

    settings: Settings
    models: ModelTable
    log: FilteringBoundLogger
    clock: Clock
    metrics: Metrics
    certificates: Certificates
    authority: Authority | None
    scratch: Scratch
    processes: Processes
    repository: Repository
    catalog: Catalog
    store: StateStore
    nvml: Nvml | None
    mount: Mount | None
    new_store: bool
    starting: Threads

    def gpus(self, devices: Collection[str]) -> Sequence[Gpu]:
        """Returns the driver's readings for the given devices. Blocking."""
        return () if self.nvml is None else self.nvml.read(pci_addresses(devices))


async def lay_foundation(
    settings: Settings, log: FilteringBoundLogger, clock: Clock, stack: AsyncExitStack
) -> Foundation:
    """Opens the components that all others use. `stack` closes them.

    Raises:
        ConfigError: A setting is invalid on this machine.
        UnavailableError: The state store does not respond.
    """
    models = ModelTable(settings.model)
    settings = settings.model_copy(update={"model": models})
    stack.enter_context(LibraryLogs(log))
    starting = Threads("start")
    stack.callback(starting.shutdown)
    metrics = Metrics()
    certificates = Certificates(settings.tls, metrics.server.tls, log)
    stack.callback(certificates.close)
    await starting.run(certificates.load)
    authority = await starting.run(open_authority, settings, metrics.server.auth, log)
    if authority is not None:
        stack.callback(authority.close)
        await authority.start()
    settings = await starting.run(with_secrets, settings)
    await starting.run(providers.start_runtime)
    scratch = stack.enter_context(Scratch())
    processes = start_processes()
    stack.callback(processes.close)
    settings = with_state(settings, scratch)
    describe = ProcessSandbox(settings.for_model(""), processes).describe
    repository = await starting.run(open_repository, settings, describe, scratch.disk)
    stack.callback(repository.close)
    await starting.run(prepare_repository, repository, settings, log)
    store = await starting.run(StateStore.open, settings.state_url, now=clock.now)
    stack.callback(store.close)
    nvml = await starting.run(Nvml.open, log)
    if nvml is not None:
        stack.callback(nvml.close)
    new_store = not forgets(settings) and await starting.run(store_is_new, repository, store, log)
    await starting.run(prepare_log, repository, store, settings, log)
    mount = None
    if isinstance(repository, MountedRepository) or (repository.remote and forgets(settings)):
        mount = Mount(repository, store, models, log, release_all=forgets(settings))
    return Foundation(
        settings, models, log, clock, metrics, certificates, authority, scratch, processes, repository, Catalog(),
        store, nvml, mount, new_store, starting,
    )  # fmt: skip
