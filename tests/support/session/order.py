"""Defines the order in which tests run, and which of them share a worker if several run at once (pytest-xdist).

Tests that are fast and whose failures say most come first: unit, property, integration, e2e. Among the last, files that
stay on one worker start first, then those with the longest time limits, so that none of them runs alone at the end.
"""

import functools
import os
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[2]
_FOLDERS = ("unit", "property", "integration", "e2e", "gpu")
_BYTES_A_WORKER = 3 << 30
"""Approximate maximum memory of a test with its server and browser, in bytes."""


def folder_of(item: pytest.Item) -> str:
    """Returns the kind of a test: the folder below `tests` that contains it."""
    return item.path.relative_to(TESTS).parts[0]


def sort_key(item: pytest.Item) -> tuple[int, bool, float]:
    """Returns the sort key of a test. Tests of one file with equal keys keep their order."""
    folder = folder_of(item)
    rank = _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS)
    limit = item.get_closest_marker("timeout")
    if folder != "e2e":
        return rank, False, 0.0
    divisible = not shared_scope(item.path.relative_to(TESTS.parent).as_posix())
    return rank, divisible, -float(limit.args[0]) if limit is not None else 0.0


@functools.cache
def shared_scope(path: str) -> bool:
    """Returns whether a file's tests run on one worker, because they are fast or share expensive fixtures."""
    return not path.startswith("tests/e2e/") or 'scope="module"' in (TESTS.parent / path).read_text()


def workers(*, quick: bool) -> int:
    """Returns the useful number of workers, as far as memory allows: one per core for fast tests, otherwise four.

    Fast tests are bound by CPU, and each additional worker collects all of them once more (two workers 52 s, three 57,
    four 67 on two cores). The others also wait: all 10,316 tests take 12:14 with six workers, and 11:06 with seven.

    Args:
        quick: Whether no test that is marked as slow runs.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores if quick else 4 * cores, memory // _BYTES_A_WORKER))


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Returns a scheduler that assigns files, or single tests, to workers in the order of the run."""
    from xdist.scheduler import LoadScopeScheduling

    class InOrder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if shared_scope(path) else nodeid

    config.option.loadscopereorder = False
    return InOrder(config, log)
