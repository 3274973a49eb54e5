"""Who gets a slot: the cap, the line, its order, its end; and what those are told who get none."""

from __future__ import annotations

import asyncio
import random

from headgate.workbench.conformance.caller import WAYS, Caller, Reply
from headgate.workbench.conformance.engine import Scripted
from headgate.workbench.conformance.site import GRACE_S, Site, tally, told_to_return_s, within
from headgate.workbench.conformance.verdict import Broken, Held, Inapplicable, held

_BURST_TOKENS = 8
_STORM = 300
_STORM_AT_ONCE = 60
_SEED = 20_261_124
_HONEST_SHARE = 0.9


async def burst(site: Site) -> Held:
    """Three times as many at once as there is room for, streams and whole answers."""
    assert site.engine is not None
    room = site.slots + min(site.line, 64)
    async with site.engine.watched() as seen:
        callers = await asyncio.gather(
            *(site.ask(_BURST_TOKENS, stream=bool(number % 2)) for number in range(3 * room))
        )
    answered = [caller for caller in callers if caller.reply.ended_well]
    others = [caller for caller in callers if not caller.reply.ended_well]
    figures = {"most": seen.most, "cap": site.slots, "sent": len(callers), "answered": len(answered)}
    if seen.most > site.slots:
        raise Broken(f"{seen.most} at once on the engine, the cap is {site.slots}", **figures)
    if len(answered) < site.slots or any(not caller.reply.refused for caller in others):
        raise Broken(f"{len(answered)} of {len(callers)} answered, the others: {site.tally(others)}", **figures)
    return held(f"{seen.most} at most, {len(answered)} of {len(callers)} answered", **figures)


async def storm(site: Site) -> Held:
    """Clients of whom four in five leave at once, soon, or in mid-stream, in every way."""
    assert site.engine is not None
    dice = random.Random(_SEED)
    stayed: list[Reply] = []
    turns = iter(range(_STORM))

    async def client() -> None:
        for number in turns:
            caller = await site.call(10)
            if number % 5 == 0:
                stayed.append(await caller.whole(20.0))
            else:
                moment = dice.choice(["at once", "soon", "streaming"])
                if moment == "soon":
                    await asyncio.sleep(dice.random() * 0.05)
                elif moment == "streaming":
                    await caller.until(lambda reply: reply.begun, 5.0)
                caller.leave(dice.choice(WAYS))
                await asyncio.sleep(0.01)  # half-closed, it is still there for a moment
            caller.close()

    async with site.engine.watched() as seen:
        await asyncio.gather(*(client() for _ in range(_STORM_AT_ONCE)))
    answered = sum(reply.ended_well for reply in stayed)
    told = sum(reply.refused for reply in stayed)
    words = tally([reply.in_short for reply in stayed])
    figures = {"most": seen.most, "cap": site.slots, "stayed": len(stayed), "answered": answered, "refused": told}
    if seen.most > site.slots:
        raise Broken(f"{seen.most} at once on the engine, the cap is {site.slots}", **figures)
    if answered + told < len(stayed):
        raise Broken(f"of {len(stayed)} who stayed: {words}", **figures)
    await site.all_slots_back()
    return held(f"{seen.most} at most; {len(stayed)} of {_STORM} stayed: {words}", **figures)


async def order(site: Site) -> Held:
    """One slot goes round while a line waits; the answers begin in the order in which the requests came."""
    count = min(site.line, 12)
    # Where only the clients can tell the order, the answers must be longer than a client may be late to read.
    tokens = 3 if isinstance(site.engine, Scripted) else 60
    async with site.held() as holders:
        waiting: list[Caller] = []
        marks = [site.mark("in-line") for _ in range(count)]
        for mark in marks:
            waiting.append(await site.call(tokens, mark))
            await asyncio.sleep(0.02)  # a gateway reads connections in no order that is promised
        early = [caller for caller in waiting if await caller.until(lambda reply: reply.ended, 0.0)]
        if early:
            raise Broken(f"{len(early)} of {count} were not left waiting: {site.tally(early)}")
        holders[0].close()
        await asyncio.gather(*(caller.whole(30.0) for caller in waiting))
    answered = [caller for caller in waiting if caller.reply.ended_well]
    if len(answered) < count:
        raise Broken(f"{len(answered)} of {count} were served: {site.tally(waiting)}", served=len(answered))
    if isinstance(site.engine, Scripted):
        bodies = await site.engine.recent()
        came = [number for body in bodies for number, mark in enumerate(marks) if mark in body]
    else:
        came = sorted(range(count), key=lambda number: waiting[number].first_at)
    if came != list(range(count)):
        raise Broken(f"served as {', '.join(str(number + 1) for number in came)}", order=came)
    return held(f"{count} served in the order in which they came", order=came)


async def longest_wait(site: Site, patience_s: float) -> Held:
    """A full line behind slots that never come free."""
    limit_s = within(site, "queue_timeout_s", patience_s)
    async with site.held():
        waiting = await site.queue(site.line)
        await asyncio.gather(*(caller.whole(limit_s + GRACE_S) for caller in waiting))
    late = [caller for caller in waiting if not caller.reply.ended or caller.reply.begun]
    waits = [caller.ended_at - caller.sent_at for caller in waiting if caller.ended_at]
    figures = {"promised_s": limit_s, "longest_s": round(max(waits, default=0.0), 3), "waiting": len(waiting)}
    if late:
        raise Broken(f"{len(late)} of {len(waiting)} had no answer {limit_s + GRACE_S:g} s after they came", **figures)
    return held(f"{len(waiting)} waited {max(waits):.2f} s at most, {limit_s:g} s are promised", **figures)


async def _refused(site: Site, patience_s: float) -> list[Caller]:
    """Who finds the line full, and who waits in vain. Raises Broken where somebody isn't turned away at all."""
    limit_s = site.promises.queue_timeout_s
    waits = limit_s is not None and limit_s <= patience_s
    extra = 6
    async with site.held():
        waiting = await site.queue(site.line)
        late = [await site.call(5) for _ in range(extra)]
        told = await asyncio.gather(*(caller.until(lambda reply: reply.ended, GRACE_S) for caller in late))
        if not all(told):
            raise Broken(f"{extra - sum(told)} of {extra} who came to a full line had no answer for {GRACE_S:g} s")
        if waits:
            await asyncio.gather(*(caller.whole(limit_s + GRACE_S) for caller in waiting if limit_s is not None))
    everybody = [*late, *(waiting if waits else [])]
    return [caller for caller in everybody if caller.reply.ended]


async def refusal_status(site: Site, patience_s: float) -> Held:
    callers = await _refused(site, patience_s)
    statuses = tally([caller.reply.in_short for caller in callers])
    wrong = [caller for caller in callers if not caller.reply.refused]
    if wrong:
        raise Broken(f"of {len(callers)} turned away: {statuses}", statuses=statuses)
    return held(f"{len(callers)} turned away: {statuses}", statuses=statuses)


async def refusal_shape(site: Site, patience_s: float) -> Held:
    callers = await _refused(site, patience_s)
    wrong: list[str] = []
    for caller in callers:
        error = caller.reply.error
        if error is None:
            wrong.append(repr(bytes(caller.reply.body[:60]).decode(errors="replace")) if caller.reply.body else "empty")
        elif not isinstance(error.get("message"), str) or not isinstance(error.get("type"), str):
            wrong.append(f"error with {', '.join(sorted(error)) or 'nothing'}")
    if wrong:
        raise Broken(f"{len(wrong)} of {len(callers)} are not OpenAI's error: {tally(wrong)}", wrong=len(wrong))
    code = next((caller.reply.error or {}).get("code") for caller in callers)
    return held(f"{len(callers)} with error.message and .type; code {code}", code=code)


async def refusal_retry_after(site: Site, patience_s: float) -> Held:
    callers = await _refused(site, patience_s)
    without = [caller for caller in callers if told_to_return_s(caller.reply) is None]
    if without:
        raise Broken(f"{len(without)} of {len(callers)} have none ({site.tally(without)})", without=len(without))
    told = sorted(told_to_return_s(caller.reply) or 0.0 for caller in callers)
    return held(f"{len(callers)} told {told[0]:g} to {told[-1]:g} s", least_s=told[0], most_s=told[-1])


async def retry_honest(site: Site, patience_s: float) -> Held:
    """After a burst everybody comes back when told to, once."""
    room = site.slots + site.line
    if room > 400:
        raise Inapplicable(f"{room} fit in: too many to fill from one client")

    async def come_back(told_s: float) -> bool:
        await asyncio.sleep(told_s)
        return (await site.ask(15)).reply.ended_well

    count = 2 * room + site.slots
    returning: list[asyncio.Task[bool]] = []
    untold: list[str] = []

    async def come() -> None:
        reply = (await site.ask(15)).reply
        if reply.ended_well:
            return
        told_s = told_to_return_s(reply)
        if told_s is None:
            untold.append("it doesn't tell when to come back")
        elif told_s > patience_s:
            untold.append(f"it says {told_s:g} s, longer than --patience {patience_s:g}")
        else:
            returning.append(asyncio.create_task(come_back(told_s)))

    await asyncio.gather(*(come() for _ in range(count)))
    worked = [await task for task in returning]
    if untold:
        raise Inapplicable(untold[0])
    if not worked:
        raise Inapplicable(f"it refused none of {count}")
    figures = {"sent": count, "refused": len(worked), "worked": sum(worked)}
    said = f"{sum(worked)} of {len(worked)} were served when they came back as told"
    if sum(worked) < _HONEST_SHARE * len(worked):
        raise Broken(said, **figures)
    return held(said, **figures)
