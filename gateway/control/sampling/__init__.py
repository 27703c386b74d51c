"""Counting the items that keys send, from samples: `usage.sample`."""
