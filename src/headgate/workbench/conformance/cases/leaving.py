"""A client that leaves, at every stage and in every way: its slot comes back, and nothing runs on for it."""

from __future__ import annotations

import asyncio

from headgate.workbench.conformance.caller import Caller, Way
from headgate.workbench.conformance.engine import EVENT_S, Scripted
from headgate.workbench.conformance.site import GRACE_S, SETTLE_S, Site
from headgate.workbench.conformance.verdict import Broken, Held, held

_CANCELS = 20
_FEW = 5
_ABORTED_WITHIN_S = 3.0


async def queued(site: Site, way: Way) -> Held:
    """They leave the line: their places are free for others, and they never reach the engine."""
    count = min(site.line, 8)
    async with site.held():
        leaving = await site.queue(count)
        before = await _started(site)
        for caller in leaving:
            caller.leave(way)
        await asyncio.sleep(SETTLE_S)
        after = await site.queue(site.line, tokens=2)
    await asyncio.gather(*(caller.whole(15.0) for caller in after))
    served = sum(caller.reply.ended_well for caller in after)
    if served < len(after):
        raise Broken(
            f"{served} of {len(after)} who came after them were served ({site.tally(after)})",
            left=count,
            came=len(after),
            served=served,
        )
    await site.until_idle()
    ran = None if before is None else (await _started(site) or 0) - before - len(after)
    if ran:
        raise Broken(f"{ran} of {count} ran on the engine after they had left", left=count, ran=ran)
    took_s = await site.all_slots_back()
    said = f"{count} left, {len(after)} took their places" + ("; none of them ran" if ran == 0 else "")
    return held(said, left=count, ran=ran, back_s=round(took_s, 3))


async def waiting(site: Site, way: Way) -> Held:
    """They leave while the engine has them and has said nothing yet."""
    mark = site.mark("leave-waiting")
    await site.scripted.fault("slow_head", seconds=3600, times=None, text=mark)
    leaving = [await site.call(5, mark) for _ in range(site.slots)]
    if not await site.scripted.until_open(site.slots, GRACE_S):
        raise Broken(f"{await site.scripted.open()} of {site.slots} reached the engine ({site.tally(leaving)})")
    return await _gone(site, leaving, way)


async def streaming(site: Site, way: Way) -> Held:
    """They leave in mid-stream."""
    async with site.held() as leaving:
        return await _gone(site, leaving, way)


async def _gone(site: Site, leaving: list[Caller], way: Way) -> Held:
    for caller in leaving:
        caller.leave(way)
    try:
        aborted_s = await site.until_idle(_ABORTED_WITHIN_S)
    except Broken as broken:
        raise Broken(f"of {len(leaving)} that had left {broken.said}", **broken.evidence) from None
    took_s = await site.all_slots_back()
    said = f"{len(leaving)} left, " + (f"off the engine in {aborted_s * 1e3:.0f} ms" if site.engine else "slots back")
    return held(said, left=len(leaving), aborted_s=round(aborted_s, 3), back_s=round(took_s, 3))


async def cancel_is_quick(site: Site) -> Held:
    """How many more events an engine makes for a client that has gone, one client after the other."""
    more: list[int] = []
    for _ in range(_CANCELS):
        before = int((await site.scripted.state())["generation_tokens"])
        caller = await site.call(site.long)
        if not await caller.until(lambda reply: len(reply.chunks()) >= 4, 5.0):
            raise Broken(f"a stream did not begin ({caller.reply.in_short})")
        seen = sum(bool(_content(chunk)) for chunk in caller.reply.chunks())
        caller.leave("close")
        await site.until_idle(_ABORTED_WITHIN_S)
        more.append(int((await site.scripted.state())["generation_tokens"]) - before - seen)
    ordered = sorted(more)
    figures = {"clients": _CANCELS, "events": ordered, "event_s": EVENT_S}
    said = f"{ordered[len(ordered) // 2]} more events in the median, {ordered[-1]} at most"
    if ordered[int(0.9 * len(ordered)) - 1] > _FEW:
        raise Broken(said, **figures)
    return held(said, **figures)


def _content(chunk: dict[str, object]) -> object:
    choices = chunk.get("choices")
    return choices[0].get("delta", {}).get("content") if isinstance(choices, list) and choices else None


async def _started(site: Site) -> int | None:
    """Requests that the engine has ever begun; None where it can't be asked."""
    return int((await site.engine.state())["requests_seen"]) if isinstance(site.engine, Scripted) else None
