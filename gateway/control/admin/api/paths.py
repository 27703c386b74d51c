"""Where the management API is, and its headers: what the API and its client both go by."""

from __future__ import annotations

from typing import Final

KEYS_PATH: Final = "/api/security/ingestion/api_keys"
IMPORT_PATH: Final = "/api/security/ingestion/import"
EXPORT_PATH: Final = "/api/security/ingestion/export"
FIND_PATH: Final = "/api/security/ingestion/find"
ADOPT_PATH: Final = "/api/security/ingestion/adopt"
AUDIT_PATH: Final = "/api/security/ingestion/audit"
USAGE_PATH: Final = "/api/security/ingestion/usage"
CONFIRMED: Final = "X-Gateway-Confirmed"
"""`true`: all workers of all running gateways that share the store decide by the change;
`EXCEPT_STANDBYS`: and of those on standbys of the database, if any, nobody can tell; `false`: some
may not yet.
"""
EXCEPT_STANDBYS: Final = "except-standbys"
UNCONFIRMED: Final = "X-Gateway-Unconfirmed"
"""Who has not confirmed, separated by commas: `HOST PROCESS`, or `PROCESS` on one host."""
