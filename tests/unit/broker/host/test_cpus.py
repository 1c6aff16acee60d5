"""CPUs that may be used, from /proc and control groups as machines and containers show them."""

import os
from pathlib import Path

import pytest

from tykpy.broker.host.cpus import usable_cpus

V2 = "30 24 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 24 0:27 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
OTHER = "22 24 0:21 / /proc rw,relatime - proc proc rw"
MANY = 64


@pytest.fixture(autouse=True)
def a_big_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: MANY)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(MANY)))


def machine(root: Path, groups: str, mounts: list[str], files: dict[str, str]) -> Path:
    for name, text in {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": "\n".join([OTHER, *mounts]),
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "count", "limit"),
    [
        ("0::/", [V2.format(top="/")], {}, MANY, "CPUs of the machine"),
        ("0::/", [V2.format(top="/")], {"cpu.max": "max 100000"}, MANY, "CPUs of the machine"),
        ("0::/", [V2.format(top="/")], {"cpu.max": "200000 100000"}, 2, "quota of 2 CPUs"),
        ("0::/", [V2.format(top="/")], {"cpu.max": "150000 100000"}, 2, "quota of 1.5 CPUs"),
        ("0::/", [V2.format(top="/")], {"cpu.max": "10000 100000"}, 1, "quota of 0.1 CPUs"),
        ("0::/", [V2.format(top="/")], {"cpu.max": "99900000 100000"}, MANY, "CPUs of the machine"),
        ("0::/a/b", [V2.format(top="/")], {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3, "a/cpu"),
        ("0::/a/b", [V2.format(top="/")], {"a/b/cpu.max": "200000 100000", "a/cpu.max": "max 100000"}, 2, "b/cpu.max"),
        ("0::/pods/x/c", [V2.format(top="/pods/x")], {"c/cpu.max": "200000 100000"}, 2, "c/cpu.max"),
        ("0::/pods/x", [V2.format(top="/pods/x")], {"cpu.max": "200000 100000"}, 2, "cgroup/cpu.max"),
        ("0::/../x", [V2.format(top="/")], {"cpu.max": "200000 100000", "x/cpu.max": "100000 100000"}, 2, "cgroup/cpu"),
        ("0::/", [V2.format(top="/")], {"cpu.max": "nonsense"}, MANY, "CPUs of the machine"),
        ("0::/", [], {"cpu.max": "200000 100000"}, MANY, "CPUs of the machine"),
        (
            "5:cpu,cpuacct:/docker/1\n4:memory:/m",
            [V1.format(top="/docker/1"), MEMORY],
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3,
            "quota of 2.5 CPUs",
        ),
        (
            "5:cpu,cpuacct:/",
            [V1.format(top="/")],
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            MANY,
            "CPUs of the machine",
        ),
        (
            "5:cpu,cpuacct:/a\n0::/a",
            [V1.format(top="/"), V2.format(top="/").replace("/cgroup rw", "/cgroup/unified rw")],
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                "unified/a/cpu.max": "300000 100000",
            },
            3,
            "unified/a/cpu.max",
        ),
    ],
)
def test_quotas(tmp_path: Path, groups: str, mounts: list[str], files: dict[str, str], count: int, limit: str) -> None:
    found = usable_cpus(machine(tmp_path, groups, mounts, files))
    assert found.number == count
    assert limit in found.limit


def test_affinity_counts_where_it_is_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, "0::/", [V2.format(top="/")], {"cpu.max": "300000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 5})
    assert usable_cpus(root) == (2, "CPU affinity")


def test_without_proc_the_machine_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == (MANY, "CPUs of the machine")
