"""The keys file as the gateway knows it: looked up at each request, looked at anew each second.

The look is taken in another thread, since a file can lie on a disk that hangs. What is new is believed when two looks
saw the same: an editor, or a copy over a network, writes a file piece by piece, and its first half is a good file with
half of the keys. A file that has become wrong changes nothing: the keys stay as they were, and the log, ``/status`` and
``api_keys_file_ok`` say so until it is right.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from headgate.keys import store
from headgate.keys.records import Key, KeysError, digest

log = logging.getLogger(__name__)

_Content = dict[str, Key] | str
"""What a look saw: keys, or what is wrong."""


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
        self._looking = False
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

        Never raises; where the last look isn't over, nothing happens.
        """
        if self._looking:
            return
        self._looking = True
        try:
            self._heed(await asyncio.to_thread(self._read))
        finally:
            self._looking = False

    def _read(self) -> tuple[store.Stamp | None, _Content] | None:
        seen = store.stamp(self.path)
        # What is wrong may be right with no change of the file: its rights, its disk, files that are open.
        if seen == self._stamp and self._news is None and self.error is None:
            return None
        try:
            return seen, store.load(self.path)
        except KeysError as error:
            return seen, str(error)

    def _heed(self, read: tuple[store.Stamp | None, _Content] | None) -> None:
        if read is None:
            return
        self._stamp, content = read
        believed, known = content == self._news, content == self.error
        self._news = None if believed or known else content
        if not believed or known:
            return
        if isinstance(content, str):
            self.error = content
            log.error("%s is left aside, and the keys stay as they were: %s", self.path, content)
        else:
            self._take(content)
            log.info("%s was read anew: %d keys", self.path, len(content))

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
