"""Namespaces of processes, for tests as root and as a user for whom the kernel allows them."""

from __future__ import annotations

import os
import subprocess

from tests.support.tools import missing

_UNSHARE = ("unshare",)
_ROOT = ("--user", "--map-root-user")


def unshare() -> tuple[str, ...]:
    """Return `unshare` with what it needs to make other namespaces: nothing for root, else a user
    namespace in which the user is root (user_namespaces(7)). Without such the test is skipped.
    """
    if os.geteuid() == 0:
        return _UNSHARE
    probe = [*_UNSHARE, *_ROOT, "true"]
    made = subprocess.run(probe, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        missing(
            "a user namespace",
            f"run the tests as root, or let users make some ({made.stderr.strip()}; on Ubuntu:"
            " `sysctl kernel.apparmor_restrict_unprivileged_userns=0`)",
        )
    return (*_UNSHARE, *_ROOT)
