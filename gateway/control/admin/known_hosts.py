"""By which names control's own addresses may be called.

A web page can have a browser send requests to an address of this machine, under a name whose
address the page's owner changes (DNS rebinding), and read the responses. The name stands in the
field Host, and it is none of these: an IP address, localhost, a name from the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.config import Config
from gateway.config.addresses import as_ip, is_loopback
from gateway.config.values import split_address

REFUSED: Final = (
    "the name in the field Host is not known here: use an IP address or localhost, or add the name"
    " to admin.hosts"
)
_ANY: Final = "*"


class KnownHosts:
    """The known names; a reload replaces them."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(names)

    def use(self, config: Config) -> None:
        """Know the names of `admin.hosts`, and those that the addresses are configured with."""
        admin = config.admin
        addresses = (admin.address, admin.metrics_address, admin.authorize_address)
        own = (split_address(address)[0] for address in addresses if address is not None)
        self._names = frozenset([*admin.hosts, *own])

    def are_known(self, fields: Sequence[str]) -> bool:
        """Whether all values of the field Host are known. Browsers send one, some probes none."""
        return all(self._is_known(field) for field in fields)

    def _is_known(self, field: str) -> bool:
        if _ANY in self._names:
            return True
        name = _name_in(field)
        if as_ip(name) is not None or is_loopback(name) or name in self._names:
            return bool(name)
        parents = name.split(".")
        return any(
            f"*.{'.'.join(parents[place:])}" in self._names for place in range(1, len(parents))
        )


def _name_in(field: str) -> str:
    """Return the name or the address in a field Host, without the port."""
    text = field.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    name, colon, port = text.rpartition(":")
    if colon and (port.isdigit() or not port):
        text = name
    return text.removesuffix(".")
