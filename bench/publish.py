"""Writes a run where readers look: `bench/results`, and the marked parts of README and docs.

`python -m bench.publish` writes them again from `bench/results/latest.json`, after a change of how
they are drawn. A test compares all of them with that file.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec

from bench import pictures, run_file, tables
from bench.run_file import Program, Run

_CHECKOUT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/performance.md")
_FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.@+-]+/)+")
BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(\n<!-- /bench:\2 -->)", re.DOTALL)


def rendered(page: str, run: Run) -> str:
    """Return a page with its marked parts made from a run.

    Raises:
        KeyError: a part's name is not one of `tables.BLOCKS`.
    """
    return BLOCK.sub(lambda part: f"{part[1]}{tables.BLOCKS[part[2]](run)}{part[3]}", page)


def report(run: Run) -> str:
    """Return `latest.md`: everything that was measured."""
    kind = "A quick run" if run.is_quick else "A run"
    parts = [
        f"# {kind} of the bench\n\n{tables.builds(run)}",
        f"## Bounds\n\n{tables.bounds(run)}",
        f"## What a request costs\n\n{tables.costs(run)}",
        f"## Added latency, ms\n\n{tables.latencies(run)}",
        f"## Encoders\n\n{tables.encoders(run)}",
        f"## Memory\n\n{tables.memory(run)}",
        f"## Every row\n\n{tables.every_row(run)}",
    ]
    return "\n\n".join(parts) + "\n"


def files(run: Run) -> dict[Path, str]:
    """Return every file that is made from a run, with its text."""
    made = {run_file.RESULTS / "latest.md": report(run)}
    made |= {run_file.RESULTS / name: draw(run) for name, draw in pictures.PICTURES.items()}
    for name in PAGES:
        page = _CHECKOUT / name
        made[page] = rendered(page.read_text(encoding="utf-8"), run)
    return made


def without_folders(run: Run) -> Run:
    """Return a run that says nothing of where files are on the machine that it was made on."""

    def short(text: str) -> str:
        return _FOLDERS.sub("", text)

    return msgspec.structs.replace(
        run,
        builds={
            name: Program(build.title, short(build.details)) for name, build in run.builds.items()
        },
        missing={name: short(reason) for name, reason in run.missing.items()},
        failed={where: short(reason) for where, reason in run.failed.items()},
    )


def publish(run: Run) -> None:
    """Write a run and all that is made from it."""
    run_file.RESULTS.mkdir(exist_ok=True)
    run_file.LATEST.write_bytes(run_file.dump(without_folders(run)))
    run = run_file.load()  # as rounded there
    for file, text in files(run).items():
        file.write_text(text, encoding="utf-8")


def main() -> int:
    """Write again what is made from the published run."""
    run = run_file.published()
    if run is None:
        print(f"{run_file.LATEST} is missing: make it with `make bench`", file=sys.stderr)
        return 2
    publish(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
