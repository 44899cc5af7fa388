"""The tables `[loading]` and `[trials]`: which versions are loaded, and the limits of their trial runs."""

from typing import Annotated, Literal

from pydantic import ByteSize, Field

from turnout.config.sections import Section
from turnout.config.values import Count, CountOrNone, Duration, LoadAll, LoadField, SizeOrNone

_MIB = 1024 * 1024


class Loading(Section):
    """How versions are loaded.

    Attributes:
        load: Which versions of a model are loaded, unless the model sets its own `load`: `all`, `latest:N`, `on_demand`
            or a list of selectors.
        memory_budget_bytes: Maximum CPU memory of all loaded versions together; 0 for no limit. A version counts with
            its `turnout_version_memory_bytes`, and at least with the size of its files. If a load needs more, versions
            that were loaded on demand are unloaded, least recently used first.
        gpu_memory_budget_bytes: Maximum memory of all loaded versions together on each GPU; 0 for no limit.
        concurrency: Maximum number of versions that are loaded at the same time.
        warmup_runs: Number of warm-up runs of each batch size before a version is Ready.
        environment: What happens if a version declares an environment that this machine does not match: `warn` logs a
            warning, `refuse` does not load the version, `ignore` loads it.
    """

    load: LoadField = LoadAll()
    memory_budget_bytes: SizeOrNone = ByteSize(0)
    gpu_memory_budget_bytes: SizeOrNone = ByteSize(0)
    concurrency: Count = 2
    warmup_runs: CountOrNone = 2
    environment: Literal["warn", "refuse", "ignore"] = "warn"


class SandboxSettings(Section):
    """Trial runs of versions in separate processes: by the gates of a publish, and before a load.

    Attributes:
        memory_limit_bytes: Maximum memory of a trial run in addition to the model itself. It is never more than half of
            the memory of the machine or container; 0 for that half.
        timeout_s: Time limit of all processes of one trial together.
        run_timeout_s: Time limit of one run on generated inputs. Golden cases are limited by `timeout_s` only.
    """

    memory_limit_bytes: SizeOrNone = ByteSize(4096 * _MIB)
    timeout_s: Annotated[Duration, Field(gt=0)] = 600.0
    run_timeout_s: Annotated[Duration, Field(gt=0)] = 30.0
