"""The number of cores that this process may use, for `workers: auto`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_PROC_CGROUP: Final = Path("/proc/self/cgroup")


def usable_cores(root: Path = _CGROUP_ROOT, memberships: Path = _PROC_CGROUP) -> int:
    """Count the cores that CPU affinity and quota allow, rounded up, at least 1.

    A container with a quota of 1.5 cores on a machine of 64 gets 2. `root` is where the cgroup
    hierarchy is mounted, `memberships` lists the groups of this process (cgroups(7)).
    """
    cores = len(os.sched_getaffinity(0))
    quota = _cpu_quota(root, memberships)
    return max(1, min(cores, math.ceil(quota))) if quota is not None else cores


def _cpu_quota(root: Path, memberships: Path) -> float | None:
    """Read the lowest quota of this process's groups and their parents, in cores."""
    quotas = [
        quota
        for controllers, group in _groups(memberships)
        for quota in (
            _quotas_v2(root, group) if not controllers else _quotas_v1(root, controllers, group)
        )
        if quota is not None
    ]
    return min(quotas, default=None)


def _groups(memberships: Path) -> list[tuple[str, str]]:
    """List (controllers, group): version 2 lists no controllers, version 1 must have `cpu`."""
    text = _read(memberships)
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]  # noqa: PLR2004 - hierarchy:controllers:path
    return [
        (controllers, group)
        for _, controllers, group in lines
        if not controllers or "cpu" in controllers.split(",")
    ]


def _quotas_v2(root: Path, group: str) -> list[float | None]:
    """Read `cpu.max` (`max 100000` or `150000 100000`) of a group and of its parents."""
    return [_ratio(_read(folder / "cpu.max").split()) for folder in _ancestry(root, group)]


def _quotas_v1(root: Path, controllers: str, group: str) -> list[float | None]:
    """Read the quota files of version 1; -1 means no quota."""
    mounts = [root / name for name in (controllers, "cpu") if (root / name).is_dir()]
    return [
        _ratio([_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")])
        for mount in mounts[:1]
        for folder in _ancestry(mount, group)
    ]


def _ancestry(root: Path, group: str) -> list[Path]:
    """List a group's directory and its parents up to `root`: in a container only `root` exists.

    For a path outside the mount (`/../..`, seen from another cgroup namespace), return only root.
    """
    parts = [part for part in group.split("/") if part]
    if ".." in parts:
        return [root]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _ratio(fields: list[str]) -> float | None:
    """Divide quota by period; None if there is no quota."""
    try:
        quota, period = (int(field) for field in fields)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    """Read a small kernel file; empty if it does not exist."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
