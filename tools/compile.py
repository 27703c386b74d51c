"""Compile the data path beside its sources, unless that is done already or not wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from gateway import compiled

ROOT: Final = Path(__file__).parents[1]
LOG: Final = ROOT / "build" / "compile.log"


def main() -> int:
    """Compile if need be; return 0 also where no compiler is: the same sources run as Python."""
    if compiled.is_up_to_date():
        return 0
    sys.stdout.write("Compiling the data path (a minute or two, after each change of it) …\n")
    sys.stdout.flush()
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log:
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        ended = subprocess.run(command, cwd=ROOT, stdout=log, check=False)
    if ended.returncode:
        sys.stderr.writelines(LOG.read_text().splitlines(keepends=True)[-20:])
        sys.stderr.write(
            f"The data path does not compile; the whole output is in {LOG.relative_to(ROOT)}. "
            f"{compiled.PURE_PYTHON}=1 goes on without.\n"
        )
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
