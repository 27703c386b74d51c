"""Keys that a remote authority knows: asking it, and remembering its verdicts."""
