"""The KV cache as numbers: which blocks are taken, which are kept for their prefix, which can be taken again.

Pure. Decides whether a sequence may grow and how much of its prompt is already there. A block of prompt that
has been computed is known by a hash of everything up to its end; while nobody uses it, it stays in memory,
least recently used first to go. Blocks of generated tokens are never shared (vLLM shares them too; here a
next turn finds its prompt only). Ends at the count: who is to be preempted for a block is decided in
``scheduler``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Table:
    """The blocks of one sequence: those shared by hash, in prompt order, and a number of its own."""

    shared: list[int] = field(default_factory=list)
    own: int = 0

    def __len__(self) -> int:
        return len(self.shared) + self.own


class Blocks:
    """A finite store of blocks. ``used + free == total`` at every moment."""

    def __init__(self, total: int, *, caching: bool = True) -> None:
        self.total = total
        self._caching = caching
        self._own = 0
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Blocks {self.used}/{self.total} used, {len(self._idle)} kept idle>"

    @property
    def used(self) -> int:
        """Blocks that some sequence holds."""
        return self._own + len(self._users)

    @property
    def free(self) -> int:
        """Blocks that can be taken now, those kept for their prefix included."""
        return self.total - self.used

    def known(self, hashes: list[int]) -> int:
        """How many of a prompt's leading blocks are in memory."""
        if not self._caching:
            return 0
        for count, key in enumerate(hashes):
            if key not in self._users and key not in self._idle:
                return count
        return len(hashes)

    def admit(self, hashes: list[int], blocks: int) -> Table | None:
        """A table that begins with the blocks of ``hashes`` (all known) and holds ``blocks`` in all.

        None where there is no room: a kept idle block that is used again takes room too.
        """
        idle = sum(1 for key in hashes if key in self._idle)
        if idle + blocks - len(hashes) > self.free:
            return None
        for key in hashes:
            self._idle.pop(key, None)
            self._users[key] = self._users.get(key, 0) + 1
        table = Table(shared=list(hashes))
        self._take(table, blocks - len(hashes))
        return table

    def grow(self, table: Table, blocks: int) -> bool:
        """Give a sequence ``blocks`` in all; False, and nothing changed, where there is no room."""
        more = blocks - len(table)
        if more > self.free:
            return False
        self._take(table, max(0, more))
        return True

    def publish(self, table: Table, hashes: list[int]) -> None:
        """Make the prompt blocks computed so far known under their hashes, from the first that is not shared.

        A hash that another sequence made known meanwhile ends it: what follows stays the sequence's own.
        """
        if not self._caching:
            return
        for key in hashes[len(table.shared) :]:
            if not table.own or key in self._users or key in self._idle:
                return
            table.own -= 1
            self._own -= 1
            table.shared.append(key)
            self._users[key] = 1

    def release(self, table: Table) -> None:
        """Take a sequence's blocks back. The last shared one is the first to go: prefixes outlive ends."""
        self._own -= table.own
        for key in reversed(table.shared):
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._idle[key] = None
        table.own = 0
        table.shared.clear()

    def forget(self) -> None:
        """Drop every kept prefix that nobody uses, as sleeping does."""
        self._idle.clear()

    def _take(self, table: Table, more: int) -> None:
        table.own += more
        self._own += more
        while self._own + len(self._users) + len(self._idle) > self.total:
            self._idle.popitem(last=False)
