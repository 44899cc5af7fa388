"""What control groups allow, as the files of real systems say it: both versions, nested groups, containers."""

import os
from pathlib import Path

import pytest

from turnout.host import cgroups, cpu
from turnout.host.cgroups import cpu_quota, memory_limit

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "33 24 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
    "34 24 0:30 {root} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
    "35 24 0:31 {root} /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,name=systemd\n"
)


def _system(root: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "quota"),
    [
        pytest.param(V2.format(root="/"), "0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, id="v2, in a container"),
        pytest.param(V2.format(root="/"), "0::/\n", {"cpu.max": "max 100000\n"}, None, id="v2, unbounded"),
        pytest.param(V2.format(root="/"), "0::/\n", {}, None, id="v2, the root of the host"),
        pytest.param(
            V2.format(root="/"),
            "0::/system.slice/turnout.service\n",
            {"system.slice/turnout.service/cpu.max": "400000 100000", "system.slice/cpu.max": "max 100000"},
            4.0,
            id="v2, a unit of systemd",
        ),
        pytest.param(
            V2.format(root="/"),
            "0::/kubepods/pod1/c1\n",
            {"kubepods/pod1/c1/cpu.max": "max 1", "kubepods/pod1/cpu.max": "50000 100000", "kubepods/cpu.max": "9 1"},
            0.5,
            id="v2, a group above binds",
        ),
        pytest.param(
            V2.format(root="/docker/abc"),
            "0::/docker/abc/inner\n",
            {"cpu.max": "300000 100000", "inner/cpu.max": "200000 50000"},
            3.0,
            id="v2, the host's namespace in a container",
        ),
        pytest.param(
            V2.format(root="/"), "0::/../../else\n", {"cpu.max": "250000 100000"}, 2.5, id="v2, outside the namespace"
        ),
        pytest.param(
            V1.format(root="/"),
            "4:cpu,cpuacct:/a/b\n3:memory:/a\n1:name=systemd:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "75000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "50000\n",
             "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n"},
            1.5,
            id="v1, nested",
        ),
        pytest.param(
            V1.format(root="/docker/abc"),
            "4:cpu,cpuacct:/docker/abc\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2.0,
            id="v1, in a container",
        ),
        pytest.param(
            V1.format(root="/") + "40 24 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "4:cpu,cpuacct:/\n0::/x\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "9", "cpu,cpuacct/cpu.cfs_period_us": "9", "unified/x/cgroup.procs": ""},
            1.0,
            id="both versions at once",
        ),
        pytest.param(V2.format(root="/"), "0::/\n", {"cpu.max": "nonsense"}, None, id="a file that says nothing"),
        pytest.param("garbage\n - x\n", "garbage\n", {}, None, id="files that cannot be read"),
    ],
)  # fmt: skip
def test_the_least_quota_on_the_way_to_the_root_holds(
    tmp_path: Path, mounts: str, groups: str, files: dict[str, str], quota: float | None
) -> None:
    system = _system(tmp_path, mounts, groups, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert cpu_quota(system) == quota


def test_memory_is_bounded_by_the_least_group_of_either_version(tmp_path: Path) -> None:
    two = _system(
        tmp_path / "v2", V2.format(root="/"), "0::/a/b\n",
        {"sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.max": "max\n"},
    )  # fmt: skip
    one = _system(
        tmp_path / "v1", V1.format(root="/"), "3:memory:/a\n",
        {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2000\n",
         "sys/fs/cgroup/memory/memory.limit_in_bytes": "9" * 18},
    )  # fmt: skip
    assert (memory_limit(two), memory_limit(one), memory_limit(tmp_path / "none")) == (1000, 2000, None)


@pytest.mark.parametrize(
    ("cores", "quota", "whole"),
    [(8, None, 8), (8, 2.0, 2), (8, 1.5, 1), (8, 0.1, 1), (2, 16.0, 2), (8, 3.99, 3), (1, None, 1)],
)
def test_as_many_threads_compute_at_once_as_the_quota_has_whole_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, whole: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: quota)
    assert cpu.whole_cores() == whole


@pytest.mark.slow
async def test_a_version_has_as_many_runners_as_there_are_cores_to_use(
    publish_model, start_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx_models import scaled

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: 3.5)
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    (entry,) = server.services.catalog.snapshot.models["m"].versions.values()
    assert len(entry.handle.loaded.runners) == 3
