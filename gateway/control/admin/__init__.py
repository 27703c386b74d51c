"""Control's own HTTP addresses: metrics, health, reload, traces and the management API."""
