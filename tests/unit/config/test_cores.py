from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config.cores import usable_cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def _cores(tmp_path: Path, memberships: str, files: dict[str, str]) -> int:
    for name, content in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    proc = tmp_path / "self"
    proc.write_text(memberships)
    return usable_cores(tmp_path / "cgroup", proc)


def test_without_a_quota_affinity_counts(tmp_path: Path) -> None:
    assert _cores(tmp_path, "0::/\n", {"cpu.max": "max 100000\n"}) == 8


def test_without_cgroups_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "nothing") == 8


@pytest.mark.parametrize(
    "limit, cores",
    [("150000 100000", 2), ("50000 100000", 1), ("300000 100000", 3), ("6400000 100000", 8)],
)
def test_a_quota_of_version_2_is_rounded_up(tmp_path: Path, limit: str, cores: int) -> None:
    assert _cores(tmp_path, "0::/\n", {"cpu.max": limit}) == cores


def test_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "200000 100000",
        "a/b/cpu.max": "max 100000",
        "a/b/c/cpu.max": "400000 100000",
    }
    assert _cores(tmp_path, "0::/a/b/c\n", files) == 2


def test_a_group_seen_from_another_namespace_is_the_mounted_one(tmp_path: Path) -> None:
    assert _cores(tmp_path, "0::/../../x\n", {"cpu.max": "100000 100000"}) == 1


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1_counts(tmp_path: Path, mount: str) -> None:
    files = {
        f"{mount}/docker/x/cpu.cfs_quota_us": "250000",
        f"{mount}/docker/x/cpu.cfs_period_us": "100000",
    }
    assert _cores(tmp_path, "4:memory:/\n3:cpu,cpuacct:/docker/x\n", files) == 3


def test_no_quota_of_version_1_is_minus_one(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    assert _cores(tmp_path, "3:cpu:/\n", files) == 8


def test_a_damaged_file_is_no_quota(tmp_path: Path) -> None:
    assert _cores(tmp_path, "0::/\nrubbish\n", {"cpu.max": "many"}) == 8
