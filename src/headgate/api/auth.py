"""Who is calling: keys, compared in constant time, and the name that stands for a key in metrics and logs."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from headgate.errors import Reason, Refusal
from headgate.keys import Key, Role
from headgate.keys.book import Book

ANONYMOUS = "anonymous"

NOBODY = Key(ANONYMOUS)
_DEFAULT = Key("default")
_ADMIN = Key("admin", Role.ADMIN)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that are accepted: ``api_key``, those of ``book``, and ``admin_key``, which is always there.

    With neither of the first two everybody may generate.
    """

    api_key: str | None
    admin_key: str
    book: Book | None = None

    @property
    def is_open(self) -> bool:
        """Whether everybody may generate."""
        return self.api_key is None and self.book is None

    def caller(self, headers: Headers) -> Key:
        """The caller's key, one that may generate.

        Raises:
            Refusal: ``unauthorized``, or ``forbidden`` where the key is for something else.
        """
        if self.is_open:
            return NOBODY
        key = self._known(presented(headers))
        if key.role is Role.OPS:
            raise Refusal(Reason.FORBIDDEN, "This key is for looking on, not for generation.")
        return key

    def require_any(self, headers: Headers) -> None:
        """For looking on, where a browser must get in too: HTTP Basic will do, with any user.

        Never for generation or administration: a browser sends Basic by itself, wherever a page of another site
        leads it.

        Raises:
            Refusal: ``unauthorized``, or ``forbidden`` where the file says that a key is for generation alone.
        """
        key = self._known(presented(headers) or _password(headers))
        if key.role is Role.USER and key is not _DEFAULT:
            raise Refusal(Reason.FORBIDDEN, "This key is for generation alone.")

    def require_admin(self, headers: Headers) -> None:
        """Raises Refusal: ``unauthorized``, or ``forbidden`` where a valid key is not an admin's."""
        given = presented(headers)
        if not given:
            what = (
                "The admin key is needed: `Authorization: Bearer …`. It is ADMIN_KEY, or what was shown at the start."
            )
            raise Refusal(Reason.UNAUTHORIZED, what)
        if self._known(given).role is not Role.ADMIN:
            raise Refusal(Reason.FORBIDDEN, "This key may not use the admin endpoints.")

    def _known(self, given: bytes) -> Key:
        """Whose key it is. What the file says of one counts, though it be that of the settings too.

        Raises:
            Refusal: ``unauthorized``.
        """
        if self.book is not None and (key := self.book.find(given)) is not None:
            if self.book.has_expired(key):
                raise Refusal(Reason.UNAUTHORIZED, "This API key has expired.")
            return key
        if self.api_key is not None and _same(given, self.api_key):
            return _DEFAULT
        if _same(given, self.admin_key):
            return _ADMIN
        what = "The API key is not valid." if given else "An API key is needed: `Authorization: Bearer …`."
        raise Refusal(Reason.UNAUTHORIZED, what)


def require_same_origin(headers: Headers) -> None:
    """A browser that was lured here says where it comes from; other clients send no Origin.

    ``sec-fetch-site``, where a browser sends it, is its own word, whatever a proxy has made of the host.

    Raises:
        Refusal: ``forbidden``, where that is another site.
    """
    named = dict(headers)
    origin = named.get(b"origin")
    if origin is None or named.get(b"sec-fetch-site") == b"same-origin":
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
