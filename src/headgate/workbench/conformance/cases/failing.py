"""An engine that fails: what the client is told, and that the slot comes back.

A stream that was cut short must not look like one that ended well. Either it breaks off (a client's library raises), or
it ends with an error event; that it is an event is a claim of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from headgate.workbench.conformance.caller import Caller, Reply
from headgate.workbench.conformance.site import GRACE_S, Site, tally, within
from headgate.workbench.conformance.verdict import Broken, Held, held

_AFTER_EVENTS = 4
_TOLD_WITHIN_S = 10.0
_MENDED_WITHIN_S = 20.0
"""For a gateway that looks at its engines now and then."""


async def breaks(site: Site, kind: str) -> Held:
    """Every stream breaks after a few events, twice as many as there are slots, and then every whole answer."""
    replies: list[Reply] = []
    for stream in (True, True, False):
        mark = site.mark(kind)
        await site.scripted.fault(kind, after_events=_AFTER_EVENTS, times=None, text=mark)
        callers = await asyncio.gather(*(site.call(40, mark, stream=stream) for _ in range(site.slots)))
        replies += await asyncio.gather(*(caller.whole(_TOLD_WITHIN_S) for caller in callers))
        await site.scripted.calm()
    _told(replies)
    took_s = await site.all_slots_back(_MENDED_WITHIN_S)
    words = tally([_end(reply) for reply in replies])
    return held(f"{words}; slots back", ends=words, back_s=round(took_s, 3))


async def no_head(site: Site) -> Held:
    """Bytes that are no HTTP where the answer should begin."""
    mark = site.mark("garbage-head")
    await site.scripted.fault("garbage_head", times=None, text=mark)
    callers = [await site.call(5, mark) for _ in range(site.slots)]
    replies = await asyncio.gather(*(caller.whole(_TOLD_WITHIN_S) for caller in callers))
    await site.scripted.calm()
    words = tally([_end(reply) for reply in replies])
    if any(reply.status < 500 or not reply.complete for reply in replies):
        raise Broken(f"the clients saw: {words}", ends=words)
    took_s = await site.all_slots_back(_MENDED_WITHIN_S)
    return held(f"{words}; slots back", ends=words, back_s=round(took_s, 3))


async def crash(site: Site) -> Held:
    """The engine is killed while all slots stream, and is there again at once."""
    async with site.held() as callers:
        site.scripted.stop()
        await asyncio.gather(*(caller.whole(_TOLD_WITHIN_S) for caller in callers))
        replies = [caller.reply for caller in callers]
        await site.scripted.start()
    _told(replies)
    took_s = await site.all_slots_back(_MENDED_WITHIN_S)
    words = tally([_end(reply) for reply in replies])
    return held(f"{words}; slots back {took_s:.1f} s after the restart", ends=words, back_s=round(took_s, 3))


async def hang(site: Site, patience_s: float) -> Held:
    """The engine stops making progress, with every connection open and its health page well."""
    limit_s = within(site, "hang_s", patience_s)
    async with site.held() as callers:
        await site.scripted.fault("hang")
        replies = await asyncio.gather(*(caller.whole(limit_s + GRACE_S) for caller in callers))
        _told(replies, f"{limit_s + GRACE_S:g} s after the engine fell silent")
        await _off_the_engine(site)
        await site.scripted.calm()
    took_s = await site.all_slots_back(_MENDED_WITHIN_S)
    words = tally([_end(reply) for reply in replies])
    return held(f"{words}; off the engine; slots back", ends=words, back_s=round(took_s, 3))


async def error_is_an_event(site: Site) -> Held:
    """The engine's body is cut after 200 and a few events; and the engine says an error itself."""
    ends: dict[str, list[Reply]] = {}
    for kind in ("cut", "error_event"):
        mark = site.mark(kind)
        await site.scripted.fault(kind, after_events=_AFTER_EVENTS, times=None, text=mark)
        callers = [await site.call(40, mark) for _ in range(site.slots)]
        ends[kind] = await asyncio.gather(*(caller.whole(_TOLD_WITHIN_S) for caller in callers))
        await site.scripted.calm()
    shown = {"cut": "engine cut off", "error_event": "engine's own error"}
    said = "; ".join(f"{shown[kind]}: {tally([_end(reply) for reply in found])}" for kind, found in ends.items())
    figures = {kind: tally([_end(reply) for reply in found]) for kind, found in ends.items()}
    if any(reply.error is None for found in ends.values() for reply in found):
        raise Broken(said, **figures)
    return held(said, **figures)


async def too_long(site: Site, patience_s: float) -> Held:
    """Streams that would go on for longer than a request may take."""
    limit_s = within(site, "request_timeout_s", patience_s)
    async with site.held() as callers:
        replies = await asyncio.gather(*(caller.whole(limit_s + GRACE_S) for caller in callers))
        _told(replies, f"{limit_s + GRACE_S:g} s after they came")
        longest_s = max(caller.ended_at - caller.sent_at for caller in callers)
        await _off_the_engine(site)
    took_s = await site.all_slots_back()
    words = tally([_end(reply) for reply in replies])
    figures: dict[str, Any] = {"promised_s": limit_s, "longest_s": round(longest_s, 3), "back_s": round(took_s, 3)}
    return held(f"{words} after {longest_s:.2f} s; off the engine; slots back", ends=words, **figures)


async def no_answer(site: Site, patience_s: float) -> Held:
    """An engine that takes the request and says nothing: the client gets an error's status in time."""
    limit_s = within(site, "hang_s", patience_s)
    mark = site.mark("no-answer")
    await site.scripted.fault("slow_head", seconds=3600, times=None, text=mark)
    callers = [await site.call(5, mark) for _ in range(site.slots)]
    replies = await asyncio.gather(*(caller.whole(limit_s + GRACE_S) for caller in callers))
    words = tally([_end(reply) for reply in replies])
    if any(not reply.complete or reply.status < 400 for reply in replies):
        raise Broken(f"{limit_s + GRACE_S:g} s after they came: {words}", ends=words)
    await _off_the_engine(site)
    await site.scripted.calm()
    took_s = await site.all_slots_back()
    return held(
        f"{words} in {_longest(callers):.2f} s; off the engine; slots back", ends=words, back_s=round(took_s, 3)
    )


async def _off_the_engine(site: Site) -> None:
    if not await site.scripted.until_open(0, GRACE_S):
        left = await site.scripted.open()
        raise Broken(f"the clients were told, but {left} stayed on the engine", left_on_engine=left)


def _longest(callers: list[Caller]) -> float:
    return max(caller.ended_at - caller.sent_at for caller in callers)


def _told(replies: list[Reply], when: str = f"{_TOLD_WITHIN_S:g} s later") -> None:
    """Raises Broken where a client still waits, or takes what it has for a whole answer."""
    waiting = sum(not reply.ended for reply in replies)
    if waiting:
        raise Broken(f"{waiting} of {len(replies)} clients still wait {when}", still_waiting=waiting)
    fooled = sum(reply.ended_well for reply in replies)
    if fooled:
        raise Broken(f"{fooled} of {len(replies)} broken answers look like whole ones", looked_whole=fooled)


def _end(reply: Reply) -> str:
    """How an answer ended, for the table."""
    if reply.error is not None:
        return "error event" if reply.is_stream else f"status {reply.status}"
    return "whole" if reply.ended_well else reply.in_short
