"""Use the package as people do who try it: `.venv/bin/python -m tools.runners FOLDER`.

FOLDER has the wheel that `make wheel WHEEL=FOLDER` has built. `uvx` runs the demo until it serves,
from the wheel and, as plain Python, from this checkout; `pipx` installs the wheel, with its man
page. They stand in an environment of their own and leave nothing elsewhere. Last, `pip` installs
the wheel as the first step of the tutorial says.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tools.wheel import ROOT, WheelError, run, say

CACHE: Final = ROOT / ".cache" / "runners"
PINS: Final = ("uv==0.13.9", "pipx==1.18.4")
_SERVES: Final = "press Ctrl-C to stop"
_START_S: Final = 120.0
_STOP_S: Final = 60.0


def install() -> Path:
    """Install the runners into an environment of their own; return its programs."""
    stamp = CACHE / "made-from"
    if not stamp.exists() or stamp.read_text() != "\n".join(PINS):
        run([sys.executable, "-m", "venv", "--clear", CACHE])
        pip = (CACHE / "bin" / "python", "-m", "pip", "install", "--quiet")
        run([*pip, "--disable-pip-version-check", *PINS])
        stamp.write_text("\n".join(PINS))
    return CACHE / "bin"


def places(folder: Path) -> dict[str, str]:
    """Return the variables that keep what the runners write below `folder`."""
    return {
        "HOME": str(folder),
        "PIPX_HOME": str(folder / "pipx"),
        "PIPX_BIN_DIR": str(folder / "bin"),
        "PIPX_MAN_DIR": str(folder / "man"),
        "UV_CACHE_DIR": str(CACHE / "uv"),
        # Trust what this machine trusts, as pip does: its index may be a mirror.
        "UV_SYSTEM_CERTS": "1",
        "GATEWAY_PURE_PYTHON": "1",
    }


def demo_with_uvx(programs: Path, source: str, place: Path, folder: Path) -> None:
    """Run the demo until it serves, and stop it; `place` is where. Raises `WheelError`."""
    demo = subprocess.Popen(
        [programs / "uvx", "--from", source, "otlp-gateway", "demo", "--data", place / "data"],
        cwd=place,
        env=os.environ | places(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        printed = _until_it_serves(demo)
        demo.send_signal(signal.SIGTERM)  # uv hands it on
        code = demo.wait(_STOP_S)
    finally:
        demo.kill()
        demo.wait()
    if _SERVES not in printed or code:
        message = f"the demo ended with {code} under uvx:\n{printed[-3000:]}"
        raise WheelError(message)


def _until_it_serves(demo: subprocess.Popen[bytes]) -> str:
    """Return what the demo has printed when it serves, or ends, or takes too long."""
    assert demo.stdout is not None  # noqa: S101 - a pipe was asked for
    until = time.monotonic() + _START_S
    printed = b""
    while time.monotonic() < until and _SERVES.encode() not in printed:
        if select.select([demo.stdout], [], [], 1.0)[0]:
            if not (part := os.read(demo.stdout.fileno(), 65536)):
                break
            printed += part
    return printed.decode(errors="replace")


def copy_of_checkout(folder: Path) -> Path:
    """Copy what the package is built from, so that uvx builds nothing in the checkout itself."""
    copy = folder / "checkout"
    wanted = run(["git", "ls-files", "gateway", "deploy", "*.toml", "*.in", "*.md", "setup.py"])
    for name in [*wanted.split("\n"), "LICENSE", "NOTICE"]:
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


def install_with_pipx(programs: Path, wheel: Path, folder: Path) -> str:
    """Install the wheel; return what the command says. Raises `WheelError`."""
    run([programs / "pipx", "install", wheel.absolute()], folder, **places(folder))
    manual = folder / "man" / "man1" / "gateway.1"
    if not manual.exists():
        message = "pipx found no man page in the package"
        raise WheelError(message)
    return run([folder / "bin" / "otlp-gateway", "version"], folder, **places(folder))


def install_as_the_tutorial_says(wheel: Path, folder: Path) -> str:
    """Run the tutorial's first step, with the wheel in place of a published one."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    steps = page.partition('```sh title="once"\n')[2].partition("```")[0]
    found = f"{os.environ.get('PIP_FIND_LINKS', '')} {wheel.absolute().parent}".strip()
    (folder / "tutorial").mkdir()
    command = ("bash", "-e", "-c", f"{steps}\ngateway version")
    return run(command, folder / "tutorial", PIP_FIND_LINKS=found, PIP_QUIET="2")


def main(arguments: list[str]) -> int:
    """Do all that. Returns the exit code."""
    wheel = max(Path(arguments[0]).glob("*.whl"), key=lambda file: file.stat().st_mtime)
    programs = install()
    with tempfile.TemporaryDirectory(prefix="otlp-gateway-runners-") as folder:
        try:
            source = f"otlp-gateway @ {wheel.absolute().as_uri()}"
            demo_with_uvx(programs, source, Path(folder), Path(folder))
            say("uvx runs the demo")
            demo_with_uvx(programs, ".", copy_of_checkout(Path(folder)), Path(folder))
            say("uvx --from . runs the demo")
            say(f"pipx: {install_with_pipx(programs, wheel, Path(folder)).strip()}")
            said = install_as_the_tutorial_says(wheel, Path(folder))
            say(f"pip, as in the tutorial: {said.strip()}")
        except WheelError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
