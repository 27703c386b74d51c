"""Attacks on the gateway: `python -m bench.hostile [--attack NAME …] [--seconds N]`.

Exit code 1 when a gate is missed, 2 when the bench could not be run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from bench.hostile import table
from bench.hostile.attacks import ATTACKS, BY_NAME
from bench.hostile.gates import Observation
from bench.hostile.run import Settings, observe
from bench.process import ProgramError

MAX_SECONDS: Final = 15.0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= MAX_SECONDS:
        message = f"an attack runs for 1 to {MAX_SECONDS:.0f} seconds"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.hostile", description=__doc__)
    parser.add_argument(
        "--attack",
        action="append",
        choices=sorted(BY_NAME),
        metavar="NAME",
        help="only this one; may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="list the attacks and stop")
    parser.add_argument("--seconds", type=_seconds, default=MAX_SECONDS, help="of each attack")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was seen")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the docs' table")
    parser.add_argument("--gateway", metavar="COMMAND", help="another gateway command")
    parser.add_argument("--gateway-core", type=int, default=0)
    parser.add_argument("--clients-core", type=int, default=1)
    return parser


def _write(path: Path | None, content: str) -> None:
    if path is not None:
        path.write_text(content + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = _parser().parse_args(arguments)
    if options.list:
        for attack in ATTACKS:
            print(f"{attack.name:22}{attack.title}")
        return 0
    chosen = [BY_NAME[name] for name in options.attack] if options.attack else ATTACKS
    settings = Settings(
        options.seconds, options.gateway_core, options.clients_core, options.gateway
    )
    observations: list[Observation] = []
    for number, attack in enumerate(chosen, start=1):
        try:
            seen = observe(attack, settings)
        except (ProgramError, OSError) as error:
            print(f"{attack.name}: the bench could not be run: {error}", file=sys.stderr)
            return 2
        observations.append(seen)
        verdict = "; ".join(seen.missed()) or "held"
        print(f"{number}/{len(chosen)} {attack.name}: {verdict}", flush=True)
        _write(options.json, json.dumps([each.to_dict() for each in observations], indent=1))
        _write(options.markdown, table.markdown(observations))
    print(table.text(observations))
    return 1 if any(seen.missed() for seen in observations) else 0


if __name__ == "__main__":
    sys.exit(main())
