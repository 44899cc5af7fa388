"""What everything else of a server stands on: settings, identities, the repository, the state store."""

from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from turnout.app.authorization import open_authority, with_secrets
from turnout.app.read_only import Mount, forgets, mounted, open_repository, with_state
from turnout.app.startup import prepare_log, prepare_repository, store_is_new
from turnout.auth.authority import Authority
from turnout.config import ModelTable, Settings
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
    """What the parts of a server have in common.

    Attributes:
        settings: In force: with secrets read, and a state store named.
        models: The settings of single models, which a reload changes.
        log: Where the server says what happens.
        clock: That rollouts and the events of the state store go by.
        metrics: What is counted.
        certificates: What the listeners show their clients.
        authority: Says who may do what; None if callers are taken at their word.
        scratch: A directory that is removed at the end.
        processes: Starts the children of trial runs and of isolated versions.
        repository: The models.
        catalog: What is served.
        store: The state store.
        nvml: NVIDIA's driver; None without one.
        mount: What a read-only repository holds; None if versions are published here.
        new_store: The repository has versions and the state store has never seen one.
        starting: Threads for what blocks while the server starts.
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
        """Returns what the driver says of these devices. Blocking."""
        return () if self.nvml is None else self.nvml.read(pci_addresses(devices))


async def lay_foundation(
    settings: Settings, log: FilteringBoundLogger, clock: Clock, stack: AsyncExitStack
) -> Foundation:
    """Opens what a server stands on; `stack` closes it.

    Raises:
        ConfigError: A setting cannot be met here.
        UnavailableError: The state store does not answer.
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
    mount = mounted(repository, store, models, log, release_all=forgets(settings))
    return Foundation(
        settings, models, log, clock, metrics, certificates, authority, scratch, processes, repository, Catalog(),
        store, nvml, mount, new_store, starting,
    )  # fmt: skip
