"""Build the package and use it as a user does: `.venv/bin/python tools/wheel.py [FOLDER]`.

Builds the source archive, from that the wheel, and installs the wheel and the pinned libraries into
an empty environment in `.cache/wheel`. Then runs each script and command there, and a gateway until
it is ready. The data path is compiled without optimization, or stays plain Python with
GATEWAY_PURE_PYTHON=1: other tests show what it does. FOLDER keeps what was built.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = ROOT / ".cache" / "wheel"
_READY_S: Final = 60.0
_STOP_S: Final = 60.0
IN_WHEEL: Final = (
    "gateway/__main__.py",
    "gateway/py.typed",
    "gateway/cli/cases/collector.yaml",
    "gateway/config/meanings.json",
    "gateway/control/admin/console/static/index.html",
    "gateway/shipped/alerts.yaml",
    "gateway/shipped/dashboard.json",
    "gateway/shipped/gateway.schema.json",
    "*.data/data/share/man/man1/gateway.1",
    "*.data/data/share/bash-completion/completions/gateway",
    "*.data/data/share/zsh/site-functions/_gateway",
    "*.data/data/share/fish/vendor_completions.d/gateway.fish",
    "*.dist-info/licenses/LICENSE",
    "*.dist-info/licenses/NOTICE",
    "*.dist-info/entry_points.txt",
)
IN_ARCHIVE: Final = ("setup.py", "LICENSE", "NOTICE", "CHANGELOG.md", "docs/commands.md")
SCRIPTS: Final[tuple[tuple[str, ...], ...]] = (
    ("gateway",),
    ("otlp-gateway",),
    ("python", "-m", "gateway"),
)
COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("--help",),
    ("version", "--json"),
    ("config", "schema"),
    ("init", "collector", "--to", "-"),
    ("completion", "bash"),
    ("monitoring", "alerts"),
    ("monitoring", "dashboard"),
)


class WheelError(Exception):
    """The package is not as it must be; the text says what is wrong."""


def say(text: str) -> None:
    """Print what happens now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(command: Iterable[str | Path], folder: Path = ROOT, **environment: str) -> str:
    """Run a command and return what it printed on stdout.

    Raises:
        WheelError: it failed; the text has the end of its output.

    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=folder,
        env=_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        message = f"{' '.join(words)} ended with {done.returncode}:\n{tail}"
        raise WheelError(message)
    return done.stdout


def _environment() -> dict[str, str]:
    """Return the variables of this process without those that would lead back to the checkout."""
    left_out = ("PYTHON", "VIRTUAL_ENV")
    return {name: text for name, text in os.environ.items() if not name.startswith(left_out)}


def build(folder: Path) -> Path:
    """Build the source archive and, from it, the wheel; return the wheel's path.

    Raises:
        WheelError: that fails, or a file is missing in one of them.

    """
    hook = "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])"
    run([sys.executable, "-c", hook, folder])
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    _expect(IN_ARCHIVE, names, archive.name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    level = {"GATEWAY_OPT_LEVEL": os.environ.get("GATEWAY_OPT_LEVEL", "0")}
    run([sys.executable, "-m", "pip", "wheel", *options, archive], ROOT, **level)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        _expect(IN_WHEEL, set(packed.namelist()), wheel.name)
        others = {name.partition("/")[0].partition(".")[0] for name in packed.namelist()}
    if strangers := {name for name in others if not name.startswith(("gateway", "otlp_gateway"))}:
        message = f"{wheel.name} has more than the gateway: {', '.join(sorted(strangers))}"
        raise WheelError(message)
    return wheel


def _expect(patterns: Iterable[str], names: set[str], where: str) -> None:
    paths = [Path(name) for name in names]
    missing = [each for each in patterns if not any(path.match(each) for path in paths)]
    if missing:
        message = f"{where} lacks {', '.join(missing)}"
        raise WheelError(message)


def install(wheel: Path) -> Path:
    """Install the wheel with the pinned libraries into an empty environment; return its programs.

    Raises:
        WheelError: that fails, or a library is missing in the lock file.

    """
    shutil.rmtree(CACHE, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", CACHE])
    pip = (sys.executable, "-m", "pip", "--python", CACHE / "bin" / "python")
    locked = ("--require-hashes", "-r", ROOT / "requirements-runtime.lock")
    run([*pip, "install", "--quiet", *locked])
    run([*pip, "install", "--quiet", "--no-deps", wheel])
    run([*pip, "check"])
    return CACHE / "bin"


def use(programs: Path, folder: Path) -> dict[str, str]:
    """Run each script with each command; return what `gateway version --json` says.

    Raises:
        WheelError: one fails, or says something else than the others.

    """
    said: dict[tuple[str, ...], set[str]] = {}
    for script, *start in SCRIPTS:
        for arguments in COMMANDS:
            printed = run([programs / script, *start, *arguments], folder)
            said.setdefault(arguments, set()).add(printed)
    for arguments, texts in said.items():
        if len(texts) != 1 or not "".join(texts).strip():
            message = f"the scripts do not say the same to {' '.join(arguments)}"
            raise WheelError(message)
    (version,) = said["version", "--json"]
    found: dict[str, str] = json.loads(version)
    return found


def serve(programs: Path, folder: Path) -> None:
    """Start a gateway, wait until it is ready, and stop it.

    Raises:
        WheelError: it does not become ready, or does not end with 0.

    """
    listen = "listen=[{address: '127.0.0.1:0'}]"
    port = _free_port()
    options = ("--set", listen, "--set", f"admin.address=127.0.0.1:{port}", "--set", "workers=1")
    quick = ("--set", "limits.drain_delay=0s", "--set", f"state_dir={folder / 'state'}")
    with (folder / "log").open("w") as log:
        gateway = subprocess.Popen(
            [programs / "otlp-gateway", "serve", *options, *quick],
            cwd=folder,
            env=_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            ready = _until_ready(gateway, port)
            gateway.send_signal(signal.SIGTERM)
            code = gateway.wait(_STOP_S)
        finally:
            gateway.kill()
            gateway.wait()
    if not ready or code:
        message = f"a gateway ended with {code}; its log:\n{(folder / 'log').read_text()}"
        raise WheelError(message)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _until_ready(gateway: subprocess.Popen[bytes], port: int) -> bool:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until and gateway.poll() is None:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer,
        ):
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP
        time.sleep(0.05)
    return False


def check(folder: Path, keep: Path | None) -> Mapping[str, str]:
    """Build, install and use the package; return what its `version` says. Raises `WheelError`."""
    say("building the source archive and the wheel")
    wheel = build(folder)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for built in folder.iterdir():
            shutil.copy(built, keep)
    say(f"installing {wheel.name} ({wheel.stat().st_size // 1024} kB) into an empty environment")
    programs = install(wheel)
    say("running its scripts and a gateway")
    (folder / "elsewhere").mkdir()
    found = use(programs, folder / "elsewhere")
    serve(programs, folder / "elsewhere")
    return found


def main(arguments: list[str]) -> int:
    """Do all that. Returns the exit code."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="otlp-gateway-wheel-") as folder:
        try:
            found = check(Path(folder), Path(arguments[0]).absolute() if arguments else None)
        except WheelError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    took = time.monotonic() - started
    say(f"gateway {found['version']} works as installed, {found['data_path']}; {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
