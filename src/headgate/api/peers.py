"""Whose connection it is, and, where that is a proxy that is trusted, who stands behind it.

``X-Forwarded-For`` can be written by anybody, so it counts from a trusted proxy alone, and of it only what trusted
proxies have added: from the right, up to the first address that is none of theirs. What is before that is hearsay.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from headgate.api.request import Headers

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOPS_MOST = 16
_PEER = (tuple, list)


def comes_from(peer: object, networks: Sequence[Network]) -> bool:
    """Whether a connection's peer (``(host, port)``, as ASGI has it) is in one of the networks."""
    if not networks or not isinstance(peer, _PEER):
        return False
    address = _read(peer[0])
    return address is not None and _within(address, networks)


def address(peer: object, headers: Headers, networks: Sequence[Network]) -> str:
    """The client's address; empty where the connection has none.

    Args:
        networks: those of trusted proxies.
    """
    if not isinstance(peer, _PEER):
        return ""
    seen = _read(peer[0]) if networks else None
    if seen is None or not _within(seen, networks):
        return str(peer[0]).removeprefix("::ffff:")
    told = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
    for hop in reversed(told.rsplit(",", _HOPS_MOST)[-_HOPS_MOST:]):
        before = _read(_without_port(hop.strip()))
        if before is None:
            break
        seen = before
        if not _within(seen, networks):
            break
    return str(seen)


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop if hop.count(":") != 1 else hop.partition(":")[0]


def _read(text: str) -> _Address | None:
    """An address; one of IPv4 on a socket of IPv6 (``::ffff:10.0.0.1``) as what it is."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _within(address: _Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
