"""`python -m gateway`: the same as the command `gateway`."""

from __future__ import annotations

from gateway.cli.entry import main

main()
