"""Which machine and which Python a run was made with."""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from pathlib import Path

from bench.run_file import Machine


def here() -> Machine:
    """Describe this machine, and how busy it is before the run."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        kernel=f"Linux {platform.release()} {platform.machine()}",
        python=_python(),
        load=os.getloadavg()[0],
    )


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    is_virtual = re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE)
    name = model[1].strip() if model else platform.machine()
    return f"{name}, virtual machine" if is_virtual else name


def _python() -> str:
    """Name the interpreter with what it was compiled with, as far as that decides its speed."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    options = [each for each in ("--enable-optimizations", "--with-lto") if each in arguments]
    flags = " ".join(re.findall(r"-O\S+", sysconfig.get_config_var("OPT") or ""))
    built = " ".join(filter(None, [*options, flags]))
    return f"{platform.python_implementation()} {platform.python_version()} ({built})"
