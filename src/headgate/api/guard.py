"""What a connection may cost before its request is whole, and which web pages may send one.

Decides nothing about a request that has arrived: ``generation`` and the routes do. Separate from ``connection``, which
asks here only about what is out of the ordinary, so that an ordinary request pays nothing for it.

Browsers are why pages are looked at: whoever opens a page lets it talk to every address that the machine can reach. A
page of another site may send what the Fetch standard calls simple requests without asking (a body with no type is one).
And a page may have its own name point at 127.0.0.1 after it was loaded, and then is the same site as what listens there
(DNS rebinding). A gateway with keys is safe from both: a page has no key to send. One that is open to everybody on its
machine takes a page's requests only under a name that can't be rebound, or that ``CORS_ORIGINS`` has.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headgate.errors import Reason, Refusal

if TYPE_CHECKING:
    from headgate.api.connection import Connection

HEADERS_MAX = 128
"""SDKs send about 20, proxies add a few; each costs time in every loop over them."""

EVERYBODY = "*"
_ANY = 1 << 62
_UNSAFE = frozenset((b"POST", b"PUT", b"PATCH", b"DELETE"))

_EXPOSED = (
    "retry-after, retry-after-ms, x-request-id, x-should-retry, x-headgate-reason, x-headgate-engine, "
    "x-headgate-queue-ms, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Guard:
    """The limits of all connections.

    Attributes:
        connections: how many there may be.
        head_bytes: how long a request's head may be.
        head_timeout_s, body_timeout_s: how long it and its body may take to arrive.
        keep_alive_s: how long a connection may idle between requests.
        stall_s: how long a client may take nothing of what is there for it.
        refused: told of each refusal, with its status.
        origins: of the web pages that may call from elsewhere; ``*``: all may.
        is_open: whether everybody may generate.
        is_local: whether only this machine can reach it.
        names: what it is called beside its addresses.
    """

    connections: int = _ANY
    head_bytes: int = 64 * 1024
    head_timeout_s: float = 20.0
    body_timeout_s: float = 60.0
    keep_alive_s: float = 75.0
    stall_s: float = 30.0
    refused: Callable[[Refusal], object] = lambda refusal: None
    origins: frozenset[str] = frozenset()
    is_open: bool = False
    is_local: bool = False
    names: frozenset[str] = field(default_factory=frozenset)

    def cross_origin(self, origin: bytes) -> Headers:
        """The headers that let a page of ``origin`` read an answer; none where it may not."""
        if not self.origins:
            return []
        told = [(b"vary", b"origin")]
        text = origin.decode("latin-1").lower()
        if EVERYBODY in self.origins or text in self.origins:
            allowed = b"*" if EVERYBODY in self.origins else origin
            told += [(b"access-control-allow-origin", allowed), (b"access-control-expose-headers", _EXPOSED.encode())]
        return told

    def check_origin(self, method: bytes, headers: Headers) -> None:
        """Whether a page that sends this may, where nothing else keeps it from it: on an open gateway.

        Raises:
            Refusal: ``forbidden``.
        """
        if not self.is_open or method not in _UNSAFE:
            return
        named = dict(headers)
        origin = named.get(b"origin", b"").decode("latin-1").lower()
        if not origin or EVERYBODY in self.origins or origin in self.origins:
            return
        # A browser says this only to hosts that it trusts: https, or this machine itself.
        if named.get(b"sec-fetch-site") == b"same-origin":
            return
        host = named.get(b"host", b"").decode("latin-1").lower()
        if _site(origin) == host and self.knows(host):
            return
        shown = origin if len(origin) <= 200 and origin.isprintable() else "another site"
        raise Refusal(
            Reason.FORBIDDEN,
            f"A web page of {shown} may not send requests here. If it should, add it to CORS_ORIGINS.",
        )

    def knows(self, host: str) -> bool:
        """Whether ``host`` can be a name of this gateway, as far as that can be told."""
        if not self.is_open or not self.is_local:
            return True
        name = _name(host)
        if name in self.names or any(_name(_site(origin)) == name for origin in self.origins):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")
        return True  # no page can have an address as its name but that which is there


def preflight(guard: Guard, headers: Headers) -> Headers | None:
    """What a browser is told that asks whether a page may send a request; None where it doesn't ask, or may not."""
    named = dict(headers)
    origin = named.get(b"origin")
    if origin is None or b"access-control-request-method" not in named or len(guard.cross_origin(origin)) < 2:
        return None
    wanted = named.get(b"access-control-request-headers", b"authorization, content-type")
    return [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", wanted),
        (b"access-control-max-age", b"600"),
        (b"content-length", b"0"),
    ]


def _site(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A host without its port."""
    bare, colon, port = host.rpartition(":")
    return bare if colon and port.isdecimal() else host


class Sweep:
    """Looks at all connections every so often, and ends those that idle, or whose request takes too long to arrive.

    One timer for all: a timer for each request's head and body would cost every request, and nearly all of them arrive
    whole. So a limit is kept to within ``every_s``.
    """

    def __init__(self, connections: Iterable[Any], guard: Guard) -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._every_s = min(1.0, guard.head_timeout_s / 4, guard.body_timeout_s / 4)
        self._timer = self._loop.call_later(self._every_s, self._ring)

    def stop(self) -> None:
        self._timer.cancel()

    def _ring(self) -> None:
        self._timer = self._loop.call_later(self._every_s, self._ring)
        now = self._loop.time()
        connections: list[Connection] = list(self._connections)
        for connection in connections:
            connection.look(now)
