"""The management API of keys: StackState's, as its `sts` CLI speaks it, and what goes beyond."""
