"""What arrives: every byte once and in order, whoever reads slowly; and what a shutdown does to it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from headgate.workbench.conformance.caller import Caller
from headgate.workbench.conformance.site import GRACE_S, SETTLE_S, Site, within
from headgate.workbench.conformance.verdict import Broken, Held, Inapplicable, held

_TOKENS = 40
_BIG_BYTES = 1_000_000
_MANY = 16
"""So many big events fill every buffer on the way."""
_ENDS_WITHIN_S = 30.0


async def text(site: Site) -> Held:
    """Many streams at once, each with words of its own, which the engine was asked for directly before."""
    at_once = min(site.streams, site.slots + site.line)
    texts = [site.mark("stream") for _ in range(site.streams)]
    expected: dict[str, str] = {}
    for begin in range(0, len(texts), 1000):
        part = texts[begin : begin + 1000]
        said = await asyncio.gather(*(site.scripted.says(site.body(_TOKENS, mark)) for mark in part))
        expected |= dict(zip(part, said, strict=True))
    wrong: list[str] = []
    refused = 0  # which loses no text: whether it is right is asked elsewhere
    turns = iter(texts)

    async def client() -> None:
        nonlocal refused
        for mark in turns:
            caller = await site.ask(_TOKENS, 60.0, text=mark)
            if caller.reply.refused:
                refused += 1
            elif not caller.reply.ended_well:
                wrong.append(f"{mark} {caller.reply.in_short}")
            elif caller.reply.text != expected[mark]:
                wrong.append(f"{mark} came as {caller.reply.text[:40]!r}, was {expected[mark][:40]!r}")

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(at_once)))
    figures = {
        "streams": len(texts),
        "at_once": at_once,
        "refused": refused,
        "wrong": len(wrong),
        "bytes": sum(map(len, expected.values())),
    }
    if wrong:
        raise Broken(f"{len(wrong)} of {len(texts)} differ: {wrong[0]}", **figures)
    if refused == len(texts):
        raise Broken(f"all {refused} were refused", **figures)
    took_s = time.monotonic() - began
    left_out = f", {refused} refused" if refused else ""
    seen = len(texts) - refused
    return held(f"{seen} streams, {at_once} at once, the same to the byte{left_out} ({took_s:.0f} s)", **figures)


async def slow_reader(site: Site) -> Held:
    """One reads a large answer slowly; it gets all of it, and another stream beside it isn't held up."""
    mark = site.mark("slow-reader")
    expected = await site.scripted.says(site.body(_TOKENS, mark))
    await site.scripted.fault("giant", after_events=3, bytes=_BIG_BYTES, text=mark)
    loop = asyncio.get_running_loop()
    slow = await site.call(_TOKENS, mark, receive_bytes=32768)
    reading = asyncio.create_task(_slowly(slow, loop.time() + 20.0))
    await asyncio.sleep(SETTLE_S)
    began = loop.time()
    beside = await site.ask(_TOKENS, 10.0)
    beside_s = loop.time() - began
    await reading
    got = slow.reply.text
    figures = {"bytes": len(got), "expected_bytes": len(expected) + _BIG_BYTES, "beside_s": round(beside_s, 3)}
    if not beside.reply.ended_well or beside_s > _TOKENS * 0.02 + GRACE_S:
        raise Broken(f"a stream beside it took {beside_s:.1f} s ({beside.reply.in_short})", **figures)
    if not slow.reply.ended_well or got.replace("x" * _BIG_BYTES, "", 1) != expected:
        raise Broken(f"it got {len(got):,} of {len(expected) + _BIG_BYTES:,} bytes ({slow.reply.in_short})", **figures)
    took_s = await site.all_slots_back()
    return held(f"all of {len(got):,} bytes; a stream beside it took {beside_s:.1f} s", back_s=took_s, **figures)


async def _slowly(caller: Caller, until: float) -> None:
    """16 KB each hundredth of a second."""
    loop = asyncio.get_running_loop()
    while not caller.reply.ended and loop.time() < until:
        await asyncio.sleep(0.01)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await caller.read(16384)


async def stalled_reader(site: Site, patience_s: float) -> Held:
    """On every slot a reader that takes nothing of a large answer, and stays."""
    limit_s = within(site, "stall_s", patience_s)
    mark = site.mark("stalled-reader")
    for number in range(_MANY):
        await site.scripted.fault("giant", after_events=1 + number, bytes=_BIG_BYTES, text=mark, times=None)
    for _ in range(site.slots):
        await site.call(site.long, mark, receive_bytes=4096)
    if not await site.scripted.until_open(site.slots, GRACE_S):
        raise Broken(f"{await site.scripted.open()} of {site.slots} reached the engine")
    loop = asyncio.get_running_loop()
    began = loop.time()
    if not await site.scripted.until_open(0, limit_s + GRACE_S):
        left = await site.scripted.open()
        raise Broken(f"{left} still on the engine after {limit_s + GRACE_S:g} s", left_on_engine=left)
    dropped_s = loop.time() - began
    if dropped_s < limit_s / 2:
        raise Broken(f"dropped after {dropped_s:.1f} s already, {limit_s:g} s are promised", dropped_s=dropped_s)
    await site.scripted.calm()
    took_s = await site.all_slots_back()
    figures = {"promised_s": limit_s, "dropped_s": round(dropped_s, 3), "back_s": round(took_s, 3)}
    return held(f"{site.slots} dropped after {dropped_s:.1f} s, {limit_s:g} s are promised; slots back", **figures)


async def drain(site: Site) -> Held:
    """It is told to end while all slots stream and some wait."""
    if site.stop is None or site.gone is None:
        raise Inapplicable("it is not ours to stop: --start or --start-command")
    marks = [site.mark("drain") for _ in range(site.slots)]
    expected = await asyncio.gather(*(site.scripted.says(site.body(100, mark)) for mark in marks))
    running = [await site.call(100, mark) for mark in marks]
    begun = await asyncio.gather(*(caller.until(lambda reply: reply.begun, 5.0) for caller in running))
    if not all(begun):
        raise Broken(f"of {len(running)} streams {sum(begun)} began ({site.tally(running)})")
    waiting = await site.queue(min(site.line, 6), tokens=10)
    site.stop()
    await asyncio.sleep(SETTLE_S)
    newcomer = await _newcomer(site)
    await asyncio.gather(*(caller.whole(_ENDS_WITHIN_S) for caller in (*running, *waiting)))
    lost = [
        caller
        for caller, words in zip(running, expected, strict=True)
        if not caller.reply.ended_well or caller.reply.text != words
    ]
    served = [caller for caller in waiting if caller.reply.ended_well]
    dropped = [caller for caller in waiting if not caller.reply.ended_well and not caller.reply.refused]
    figures = {"running": len(running), "lost": len(lost), "waiting": len(waiting), "served": len(served)}
    if lost:
        raise Broken(f"{len(lost)} of {len(running)} streams were lost ({site.tally(lost)})", **figures)
    if dropped:
        raise Broken(f"{len(dropped)} of {len(waiting)} who waited were lost ({site.tally(dropped)})", **figures)
    if newcomer.startswith("lost"):
        raise Broken(f"who came meanwhile was {newcomer}", newcomer=newcomer, **figures)
    if not await asyncio.to_thread(site.gone, _ENDS_WITHIN_S):
        raise Broken(f"it has not ended {_ENDS_WITHIN_S:g} s after its last answer", **figures)
    told = f", {len(waiting) - len(served)} told to come back" if len(served) < len(waiting) else ""
    said = f"{len(running)} streams whole to the byte; of {len(waiting)} who waited {len(served)} served{told}"
    return held(f"{said}; a newcomer {newcomer}", newcomer=newcomer, **figures)


async def _newcomer(site: Site) -> str:
    """What becomes of one who comes while it ends; ``lost`` where it isn't told."""
    try:
        caller = await site.call(2)
    except Broken:
        return "found it closed"
    reply = await caller.whole(_ENDS_WITHIN_S)
    if reply.ended_well:
        return "was served"
    return f"was told {reply.status}" if reply.refused else f"lost ({reply.in_short})"
