"""How versions come into memory, and what is tried of them first."""

from typing import Annotated, Literal

from pydantic import ByteSize, Field

from turnout.config.sections import Section
from turnout.config.values import Count, CountOrNone, Duration, LoadAll, LoadField, SizeOrNone

_MIB = 1024 * 1024


class Loading(Section):
    """How versions come into service.

    Attributes:
        load: Which versions of a model are loaded if the model has no `load` of its own: `all`, `latest:N`, `on_demand`
            or a list of selectors.
        memory_budget_bytes: Most memory that the versions loaded may take together on the CPU, as
            `turnout_version_memory_bytes` counts it, and at least their files; 0 for no bound. If a load needs more,
            versions that were loaded on demand are unloaded, the least recently used first.
        gpu_memory_budget_bytes: The same on each GPU.
        concurrency: Most versions that load at the same time.
        warmup_runs: Runs of each batch size before a version is Ready.
        environment: What happens if a version declares an environment that this machine does not match: `warn` in the
            log, `refuse` to load it, or `ignore` it.
    """

    load: LoadField = LoadAll()
    memory_budget_bytes: SizeOrNone = ByteSize(0)
    gpu_memory_budget_bytes: SizeOrNone = ByteSize(0)
    concurrency: Count = 2
    warmup_runs: CountOrNone = 2
    environment: Literal["warn", "refuse", "ignore"] = "warn"


class SandboxSettings(Section):
    """Trial runs of versions, each in a process of its own: by gates before a publish, and before a load.

    Attributes:
        memory_limit_bytes: Most memory that a trial run may take beside the model itself, and never more than half of
            what the machine, or the container, has; 0 for that half.
        timeout_s: Longest time for all processes of one trial together.
        run_timeout_s: Longest time for one run on made-up inputs; golden cases may take what `timeout_s` leaves.
    """

    memory_limit_bytes: SizeOrNone = ByteSize(4096 * _MIB)
    timeout_s: Annotated[Duration, Field(gt=0)] = 600.0
    run_timeout_s: Annotated[Duration, Field(gt=0)] = 30.0
