"""Who is calling: keys, compared in constant time, and the name that stands for a key in metrics and logs."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from headgate.errors import Reason, Refusal

ANONYMOUS = "anonymous"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that are accepted. ``api_key`` None: everybody is. ``admin_key`` is always there."""

    api_key: str | None
    admin_key: str

    def caller(self, headers: Headers) -> str:
        """The name of the caller's key.

        Raises:
            Refusal: ``unauthorized``.
        """
        if self.api_key is None:
            return ANONYMOUS
        given = presented(headers)
        if _same(given, self.api_key):
            return "default"
        if _same(given, self.admin_key):
            return "admin"
        raise _missing(given)

    def require_any(self, headers: Headers) -> None:
        """For looking on, where a browser must get in too: HTTP Basic will do, with any user.

        Never for generation or administration: a browser sends Basic by itself, wherever a page of another site
        leads it.

        Raises:
            Refusal: ``unauthorized``, where neither the API key nor the admin's is given.
        """
        given = presented(headers) or _password(headers)
        if not (_same(given, self.admin_key) or (self.api_key is not None and _same(given, self.api_key))):
            raise _missing(given)

    def require_admin(self, headers: Headers) -> None:
        """Raises Refusal: ``unauthorized``, or ``forbidden`` where a valid key is not the admin's."""
        given = presented(headers)
        if _same(given, self.admin_key):
            return
        if self.api_key is not None and _same(given, self.api_key):
            raise Refusal(Reason.FORBIDDEN, "This key may not use the admin endpoints.")
        raise _missing(given)


def require_same_origin(headers: Headers) -> None:
    """A browser that was lured here says where it comes from; other clients send no Origin.

    Raises:
        Refusal: ``forbidden``, where that is another site.
    """
    named = dict(headers)
    origin = named.get(b"origin")
    if origin is None:
        return
    try:
        site = urlsplit(origin).netloc
    except ValueError:
        site = b""
    if site != named.get(b"host"):
        raise Refusal(Reason.FORBIDDEN, "This request comes from another site.")


def presented(headers: Headers) -> bytes:
    """The key that a request carries: ``authorization: Bearer``, or ``x-api-key`` as Anthropic's clients send it."""
    for name, value in headers:
        given = b""
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == b"bearer":
                given = credentials.strip()
        elif name == b"x-api-key":
            given = value.strip()
        if given:
            return given
    return b""


def _password(headers: Headers) -> bytes:
    """The password of ``authorization: Basic``; empty where there is none."""
    for name, value in headers:
        scheme, _, credentials = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"basic":
            try:
                return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
    return b""


def _same(given: bytes, expected: str) -> bool:
    return hmac.compare_digest(given, expected.encode())


def _missing(given: bytes) -> Refusal:
    what = "The API key is not valid." if given else "An API key is needed: `Authorization: Bearer …`."
    return Refusal(Reason.UNAUTHORIZED, what)
