"""The keys file as the gateway knows it: looked up at each request, looked at anew each second.

The look is taken in a thread of its own, since a file can lie on a disk that hangs, and a daemon's, since the gateway
must be able to end then too. What is new is believed when two looks saw the same: an editor, or a copy over a network,
writes a file piece by piece, and its first half is a good file with half of the keys. A file that has become wrong
changes nothing: the keys stay as they were, and the log, ``/status`` and ``api_keys_file_ok`` say so until it is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from headgate.keys import store
from headgate.keys.records import Key, KeysError, digest

log = logging.getLogger(__name__)

_Content = dict[str, Key] | str
"""Keys, or what is wrong."""
_Seen = tuple[store.Stamp | None, _Content]

LOOKS_MISSED_MOST = 3
"""Looks that are due while one isn't over, until that is told."""


class Book:
    """The keys of one file.

    Args:
        now: Unix time.

    Raises:
        KeysError: the file is wrong already.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self._now = now
        self._looks_missed: int | None = None
        self._stamp = store.stamp(path)
        self._news: _Content | None = None
        self.error: str | None = None
        self._take(store.load(path))

    def find(self, secret: bytes) -> Key | None:
        """The key with this secret, expired or not. How long it takes says nothing about the secrets there are."""
        if not secret:
            return None
        shown = digest(secret)
        found = self._by_digest.get(shown)
        if found is None or not hmac.compare_digest(found[0], shown):
            return None
        return found[1]

    def has_expired(self, key: Key) -> bool:
        """Whether a key's time is over."""
        return self._now() >= key.expires_at

    @property
    def keys(self) -> dict[str, Key]:
        """By name."""
        return self._keys

    async def look(self) -> None:
        """Take the file anew if it is another, for the second time in a row.

        Where the last look isn't over nothing happens, but that its being late is told.
        """
        if self._looks_missed is not None:
            self._looks_missed += 1
            if self._looks_missed == LOOKS_MISSED_MOST:
                self._put_aside("it can't be read: its disk does not answer.")
            return
        self._looks_missed = 0
        try:
            self._heed(await self._look())
        except RuntimeError as error:  # no thread is to be had
            why = f"it can't be looked at: {error}."
            if why != self.error:
                self._put_aside(why)
        finally:
            self._looks_missed = None

    def _look(self) -> asyncio.Future[_Seen | None]:
        loop = asyncio.get_running_loop()
        seen: asyncio.Future[_Seen | None] = loop.create_future()

        def tell(what: _Seen | None) -> None:
            if not seen.done():
                seen.set_result(what)

        def look() -> None:
            what = self._read()
            with contextlib.suppress(RuntimeError):  # the loop has ended before the thread
                loop.call_soon_threadsafe(tell, what)

        threading.Thread(target=look, name="keys file", daemon=True).start()
        return seen

    def _read(self) -> _Seen | None:
        seen = store.stamp(self.path)
        # What is wrong may be right with no change of the file: its rights, its disk, files that are open.
        if seen == self._stamp and self._news is None and self.error is None:
            return None
        try:
            return seen, store.load(self.path)
        except KeysError as error:
            return seen, str(error)

    def _heed(self, read: _Seen | None) -> None:
        if read is None:
            return
        self._stamp, content = read
        believed, known = content == self._news, content == self.error
        self._news = None if believed or known else content
        if not believed or known:
            return
        if isinstance(content, str):
            self._put_aside(content)
        else:
            self._take(content)
            log.info("%s was read anew: %d keys", self.path, len(content))

    def _put_aside(self, why: str) -> None:
        self.error = why
        log.error("%s is left aside, and the keys stay as they were: %s", self.path, why)

    def _take(self, keys: dict[str, Key]) -> None:
        self._keys = keys
        self._by_digest = {each: (each, key) for key in keys.values() for each in key.digests}
        self.error = None
        self.read_at = self._now()

    def status(self) -> dict[str, object]:
        """For ``/status``: names and limits are in the file, and nobody else's business."""
        return {
            "file": str(self.path),
            "keys": len(self._keys),
            "expired": sum(self.has_expired(key) for key in self._keys.values()),
            "read_at": round(self.read_at, 1),
            "error": self.error,
        }
