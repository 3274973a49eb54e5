"""An engine that somebody else runs, by its URL.

Nothing is started and nothing is stopped; the supervisor only looks whether it answers. It ends at a
``Launch`` with no command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from headgate.pool.launchers import Address, Launch

_EXAMPLE = "Give something like http://10.0.0.5:8000, with a path before /v1 if there is one."
_LOGIN = re.compile(r"(//|^)[^/]*@")


@dataclass(frozen=True, slots=True)
class RemoteLauncher:
    """Looks at an address."""

    address: Address
    api_key: str | None = field(default=None, repr=False)

    def __call__(self) -> Launch:
        """The same address each time."""
        return Launch(kind="remote", address=self.address, api_key=self.api_key)


def parse_urls(urls: Sequence[str]) -> list[Address]:
    """The addresses of all engines.

    Raises:
        ValueError: one is no base URL of an engine, or there twice.
    """
    addresses = [parse_url(url) for url in urls]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ValueError(
                f"ENGINE_URLS has {address.url} twice, so its slots would be given out twice. Name each engine once."
            )
    return addresses


def parse_url(url: str) -> Address:
    """The address in a base URL; a ``/v1`` at its end is what SDKs are given, and is taken off.

    Raises:
        ValueError: it is no base URL of an engine.
    """

    shown = _LOGIN.sub(r"\1...@", url)  # a password is for nobody's log

    def refused(why: str) -> ValueError:
        return ValueError(f"ENGINE_URLS has {shown!r}, {why}. {_EXAMPLE}")

    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise refused(f"which cannot be read ({error})") from None
    if parts.scheme not in ("http", "https"):
        raise refused("which does not begin with http:// or https://")
    if not host:
        raise refused("which names no host")
    try:
        host.encode("idna")
    except UnicodeError:
        raise refused("whose host can't be the name of one") from None
    if parts.username is not None or parts.password is not None:
        raise refused("which carries a user or a password; the gateway sends neither")
    if parts.query or parts.fragment:
        raise refused("which has something after its path")
    if port == 0:
        raise refused("whose port is 0")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    if not prefix.isascii() or any(character.isspace() for character in prefix):
        raise refused("whose path is not plain ASCII")
    return Address(host, port or (443 if tls else 80), tls, prefix)
