"""Attacks on a real gateway beside well-behaved clients: see `bench/README.md`.

Each attack sends for a bounded time, from a process and an address of its own, what one client
machine can send. The gateway runs in its own processes and is used only through its command, its
configuration, its metrics and its listeners.
"""
