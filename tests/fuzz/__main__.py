"""Coverage-guided fuzzing: `python -m tests.fuzz [--seconds N] [--target NAME …]`.

The time is shared out among the targets, each in a process of its own, one process per core.
Inputs that reach something new are kept in `.cache/fuzz/NAME`; the small ones under
`tests/fuzz/corpus/NAME` are where it begins. An input that fails is written to
`.cache/fuzz/NAME-…`. What failed comes last: the traceback, the input, how to repeat it. A target
ends with its first failure, so a run with failures takes less than its time.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from tests.fuzz import report

CHECKOUT: Final = Path(__file__).parents[2]
CORPUS: Final = Path(__file__).parent / "corpus"
_CACHE: Final = CHECKOUT / ".cache/fuzz"
_LONGEST: Final = 4096
_OVERTIME_S: Final = 180
"""Beside its time, for what it loads and its last input."""
_MOST_AT_ONCE: Final = 4
_ONE_INPUT_S: Final = 10
"""What one input may take: more is a loop without end, or work without bound."""
_SIDES: Final = ("gateway.dataplane.assembly",)
GUIDED_BY: Final[dict[str, tuple[str, ...]]] = {
    "http1_server": _SIDES,
    "http2_server": _SIDES,
    "http1_upstream": _SIDES,
    "http2_upstream": _SIDES,
    "header_blocks": ("gateway.wire.hpack",),
    "fields_alone": ("gateway.wire.hpack",),
    "huffman_strings": ("gateway.wire.huffman",),
    "proxy_headers": ("gateway.dataplane.accept.proxy_header", "gateway.dataplane.core.peers"),
    "credential_fields": ("gateway.dataplane.auth.credentials", "gateway.keys.api_key"),
    "channel_messages": ("gateway.channel",),
    "configurations": ("gateway.config",),
    "certificates": ("gateway.certificate_ids",),
}
"""Target → the modules whose branches, and those of what they import, lead it."""
_SHARES: Final = {name: 3 if modules is _SIDES else 1 for name, modules in GUIDED_BY.items()}


def _fuzz(name: str, seconds: int, began_s: float) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris  # noqa: PLC0415 - before anything that is to be instrumented

    with atheris.instrument_imports(include=["gateway"], enable_loader_override=False):
        for module in GUIDED_BY[name]:
            importlib.import_module(module)
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - what it loads besides leads nobody

    # Nearly every input is one of which the gateway logs something.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    kept = _CACHE / name
    kept.mkdir(parents=True, exist_ok=True)
    left_s = max(1, seconds - round(time.monotonic() - began_s))
    atheris.Setup(
        [
            "fuzz",
            str(kept),
            str(CORPUS / name),
            f"-max_total_time={left_s}",
            f"-max_len={_LONGEST}",
            f"-timeout={_ONE_INPUT_S}",
            f"-artifact_prefix={_CACHE / name}-",
        ],
        TARGETS[name],
    )
    atheris.Fuzz()


def _repeat(name: str, data: bytes) -> int:
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - without instrumentation

    TARGETS[name](data)
    print("passed")
    return 0


def _log_file(name: str) -> Path:
    return _CACHE / f"{name}.log"


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={seconds}", f"--inside={name}"]
    _CACHE.mkdir(parents=True, exist_ok=True)
    with _log_file(name).open("wb") as output:
        try:
            status = subprocess.run(
                command,
                cwd=CHECKOUT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + _OVERTIME_S,
                check=False,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
            output.write(b"\n==0== ERROR: it did not end by itself and was killed\n")
    tried = report.inputs_tried(_log_of(name))
    verdict = f" FAILED with exit status {status}" if status else ""
    print(f"{name}: {tried} inputs in {time.monotonic() - began_s:.0f} s{verdict}", flush=True)
    return status == 0


def _log_of(name: str) -> str:
    return _log_file(name).read_text(encoding="utf-8", errors="replace")


def _run_all(names: list[str], seconds: int) -> list[str]:
    """Fuzz these targets side by side; return which failed."""
    at_once = min(len(os.sched_getaffinity(0)), _MOST_AT_ONCE, len(names))
    share_s = seconds * at_once / sum(_SHARES[name] for name in names)
    # The longest first, so that all cores are busy until the end.
    ordered = sorted(names, key=lambda name: -_SHARES[name])
    with ThreadPoolExecutor(at_once) as pool:
        passed = pool.map(lambda name: _run(name, max(1, int(share_s * _SHARES[name]))), ordered)
        return [name for name, is_good in zip(ordered, passed, strict=True) if not is_good]


def main() -> int:
    """Run the command; exit code 1 when an input fails."""
    began_s = time.monotonic()
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=180, help="in all")
    parser.add_argument(
        "--target", action="append", choices=sorted(GUIDED_BY), metavar="NAME", help="only this"
    )
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="one input of one target")
    parser.add_argument("--base64", metavar="TEXT", help="the same, as a failure prints it")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _fuzz(options.inside, options.seconds, began_s)
        return 0
    names = options.target or list(GUIDED_BY)
    if options.repeat:
        return _repeat(names[0], options.repeat.read_bytes())
    if options.base64:
        return _repeat(names[0], base64.b64decode(options.base64, validate=True))
    failed = _run_all(names, options.seconds)
    for name in failed:
        print("", *report.failure(name, _log_of(name)), sep="\n")
    if failed:
        print("", "FAILED: " + ", ".join(failed), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
