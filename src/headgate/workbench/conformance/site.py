"""What a case is given, and what most cases do: fill the slots, see them all come back.

That every slot has come back is looked at from outside, which works with any gateway: as many streams as there are
slots are started, and each has to begin while all the others run. One slot lost, and one of them never does; one given
back twice, and the engine sees more at once than it should in the cases of the cap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from headgate.workbench.conformance.caller import Address, Caller, Reply, request
from headgate.workbench.conformance.engine import Engine, Gauges, Scripted
from headgate.workbench.conformance.promises import Promises
from headgate.workbench.conformance.verdict import Broken, Inapplicable

GRACE_S = 2.0
"""How late anything may be without being called late: the machine may be busy."""
SETTLE_S = 0.2
"""After which what was sent has arrived, and who is to wait waits."""
LONG = 20_000
"""Tokens of a stream that outlasts its case."""
BACK_WITHIN_S = 5.0
_GAUGES_WITHIN_S = 30.0
"""A vLLM's gauges are as old as its last step, which an aborted request is still in: they are asked for another one."""
_GAUGE_S = 1.0


@dataclass(slots=True)
class Site:
    """A gateway that runs, and what is known of it.

    Args:
        engine: what is behind it; None where that can't be seen.
        stop: begins its orderly shutdown; None where it is not ours to stop.
        gone: waits until it has ended.
    """

    address: Address
    promises: Promises
    model: str
    key: str | None = None
    engine: Engine | None = None
    stop: Callable[[], None] | None = None
    gone: Callable[[float], bool] | None = None
    streams: int = 1000
    _callers: list[Caller] = field(default_factory=list)
    _marks: int = 0

    # What a case may build on.

    @property
    def slots(self) -> int:
        assert self.promises.max_active is not None
        return self.promises.max_active

    @property
    def line(self) -> int:
        return self.promises.queue_max or 0

    @property
    def scripted(self) -> Scripted:
        assert isinstance(self.engine, Scripted)
        return self.engine

    # Requests.

    def mark(self, word: str = "request") -> str:
        """A text that no other request has."""
        self._marks += 1
        return f"{word}-{self._marks:06d}."

    def body(self, tokens: int, text: str | None = None, *, stream: bool = True) -> dict[str, Any]:
        """A chat with an answer of so many tokens."""
        more = {"ignore_eos": True} if isinstance(self.engine, Gauges) else {}
        messages = [{"role": "user", "content": text or self.mark()}]
        return {"model": self.model, "messages": messages, "max_tokens": tokens, "stream": stream, **more}

    async def call(
        self, tokens: int, text: str | None = None, *, stream: bool = True, receive_bytes: int | None = None
    ) -> Caller:
        """A request that has been sent. Raises Broken where it can't be."""
        try:
            caller = await Caller.connect(self.address, receive_bytes=receive_bytes)
        except (OSError, TimeoutError) as error:
            raise Broken(f"the gateway took no connection: {str(error) or 'too slow'}") from None
        self._callers.append(caller)
        return await caller.send(request(self.address, self.body(tokens, text, stream=stream), self.key))

    async def ask(self, tokens: int, within_s: float = 30.0, **more: Any) -> Caller:
        """A request whose answer is read to its end."""
        caller = await self.call(tokens, **more)
        await caller.whole(within_s)
        caller.close()
        return caller

    def close(self) -> None:
        """All that a case left open."""
        for caller in self._callers:
            caller.close()
        self._callers.clear()

    # Slots.

    @asynccontextmanager
    async def held(self, count: int | None = None, tokens: int | None = None) -> AsyncIterator[list[Caller]]:
        """So many streams (all slots, if nothing is said) that have begun and go on. Raises Broken."""
        wanted = self.slots if count is None else count
        callers = await asyncio.gather(*(self.call(tokens or self.long) for _ in range(wanted)))
        begun = await asyncio.gather(*(caller.until(lambda reply: reply.begun, BACK_WITHIN_S) for caller in callers))
        try:
            if not all(begun):
                seen = self.tally([caller for caller, ok in zip(callers, begun, strict=True) if not ok])
                raise Broken(f"of {wanted} streams for {self.slots} slots only {sum(begun)} began ({seen})")
            yield list(callers)
        finally:
            for caller in callers:
                caller.close()

    @property
    def long(self) -> int:
        """Tokens of a stream that outlasts its case; no more than a real model takes."""
        return LONG if isinstance(self.engine, Scripted) else 4000

    async def queue(self, count: int, tokens: int = 5) -> list[Caller]:
        """So many who wait, the slots being held; fewer where the gateway forecasts a longer wait than it promises.

        Raises:
            Broken: somebody is neither left waiting nor told of such a wait.
            Inapplicable: all are told.
        """
        callers = [await self.call(tokens) for _ in range(count)]
        early = await asyncio.gather(*(c.until(lambda reply: reply.begun or reply.ended, SETTLE_S) for c in callers))
        gone = [caller for caller, ended in zip(callers, early, strict=True) if ended]
        hopeless = [caller for caller in gone if told_of_longer_wait(caller.reply, self.promises.queue_timeout_s)]
        if len(gone) > len(hopeless):
            seen = self.tally(gone)
            raise Broken(f"{len(gone)} of {count} were not left waiting in a line of {self.line}: {seen}")
        if count and len(hopeless) == count:
            raise Inapplicable(f"it forecasts more than the {self.promises.queue_timeout_s:g} s that it promises")
        return [caller for caller in callers if caller not in hopeless]

    async def until_idle(self, within_s: float = GRACE_S) -> float:
        """Seconds until nothing is on the engine. Raises Broken where something stays."""
        if self.engine is None:
            return 0.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        if isinstance(self.engine, Gauges):
            within_s = max(within_s, _GAUGES_WITHIN_S)
            while not await self.engine.until_open(0, _GAUGE_S) and loop.time() - began < within_s:
                await self.ask(1)
        if not await self.engine.until_open(0, _GAUGE_S if isinstance(self.engine, Gauges) else within_s):
            left = await self.engine.open()
            raise Broken(f"{left} still on the engine {within_s:g} s later", left_on_engine=left)
        return loop.time() - began

    async def all_slots_back(self, within_s: float = BACK_WITHIN_S) -> float:
        """Seconds until as many streams as there are slots run at once. Raises Broken where they never do."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        callers = await asyncio.gather(*(self._insist(began + within_s) for _ in range(self.slots)))
        took_s = loop.time() - began
        running = [caller for caller in callers if caller.reply.begun and not caller.reply.ended]
        for caller in callers:
            caller.close()
        if len(running) < self.slots:
            seen = self.tally([caller for caller in callers if caller not in running])
            raise Broken(
                f"{len(running)} of {self.slots} slots back after {within_s:g} s ({seen})",
                slots_back=len(running),
                slots=self.slots,
            )
        await self.until_idle()
        return took_s

    async def _insist(self, until: float) -> Caller:
        """A long stream that has begun; asked for again where it was refused, until this moment."""
        loop = asyncio.get_running_loop()
        while True:
            caller = await self.call(self.long)
            left_s = until - loop.time()
            if await caller.until(lambda reply: reply.begun, max(0.05, left_s)) or loop.time() >= until:
                return caller
            caller.close()
            await asyncio.sleep(0.05)

    @staticmethod
    def tally(callers: Sequence[Caller]) -> str:
        """What became of them, the commonest first: ``12× 503, 3× no end``."""
        return tally([caller.reply.in_short for caller in callers])


def told_to_return_s(reply: Reply) -> float | None:
    """When to come back, as OpenAI's SDKs read it; None where it isn't said."""
    for name, per_s in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(reply.headers[name]) / per_s)
        except (KeyError, ValueError):
            continue
    return None


def told_of_longer_wait(reply: Reply, promised_s: float | None) -> bool:
    """Whether it was refused on arrival with a time to come back that is no sooner than the promised wait is over.

    To say so at once is kinder than to let a client wait in vain, and breaks no promise. With a shorter time it would:
    the client could have waited for that.
    """
    told_s = told_to_return_s(reply)
    return reply.refused and promised_s is not None and told_s is not None and told_s >= promised_s


def tally(words: Sequence[str]) -> str:
    """``12× 503, 3× no end``."""
    counts = {word: list(words).count(word) for word in dict.fromkeys(words)}
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count}× {word}" for word, count in ordered[:4])


def within(site: Site, name: str, patience_s: float) -> float:
    """A promised time. Raises Inapplicable where there is none, or more than one has patience for."""
    promised: float | None = getattr(site.promises, name)
    if promised is None:
        raise Inapplicable("it promises none")
    if promised > patience_s:
        raise Inapplicable(f"it is {promised:g} s, longer than --patience {patience_s:g}")
    return promised
