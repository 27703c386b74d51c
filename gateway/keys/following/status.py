"""How a store is: what health and metrics show of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.keys.errors import StoreError


@dataclass(slots=True)
class StoreStatus:
    """How a store is, for health and metrics."""

    name: str
    location: str
    up: bool = False
    last_sync_ms: int = 0
    """When the keys in memory were last known to equal the store's; Unix milliseconds."""
    error: str | None = None
    """Why it is not up, for people."""
    errors: dict[str, int] = field(default_factory=dict)
    """Failures by `errors.STORE_ERROR_REASONS`."""
    loaded: bool = False
    """Whether its keys are known at all, be it from the snapshot."""
    revision: int = 0
    """The store's revision that every worker on this host decides by, or a newer one; 0 = none yet.
    Gateways that share a store can be compared by it.
    """
    read_only: bool = False
    """Whether it is a copy that nobody can write, such as a standby: it is only read."""
    cut_off: bool = False
    """Whether it is a copy that gets no changes now: a key that it does not have may exist."""
    suspended: bool = False
    """Whether it was away for longer than `keys.max_stale`: its keys are not decided on."""

    def count(self, error: StoreError) -> None:
        """Take note of a failure."""
        self.errors[error.reason] = self.errors.get(error.reason, 0) + 1
        self.up, self.error = False, str(error)

    def note_in_step(self, now_ms: int, *, read_only: bool, cut_off: bool) -> bool:
        """Take note that the keys in memory equal the store's. Returns whether that is news."""
        before = (self.up, self.read_only, self.cut_off)
        self.up, self.loaded, self.error = True, True, None
        self.read_only, self.cut_off = read_only, cut_off
        self.last_sync_ms = now_ms
        return before != (self.up, self.read_only, self.cut_off)
