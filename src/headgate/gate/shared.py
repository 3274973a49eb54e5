"""Buckets that several gateways have in common, kept by a Redis. The rules are those of ``rates``, in ``shared.lua``.

One task owns the one connection. What requests want to know at one moment goes out in one pipeline, each request's
buckets as one script, which Redis runs whole and by its own clock; what is to be corrected goes with it, and nobody
waits for that. Where Redis doesn't answer within ``TIMEOUT_S``, nothing is asked until it does again: ``take`` says so
at once, and its caller decides by itself.

Redis-py's own retries are off but for one: a request can't wait for them, and this task looks for it every ``RETRY_S``
anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from headgate.gate.rates import Charge, Decision

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

TIMEOUT_S = 0.25
RETRY_S = 0.5
BATCH_MOST = 256
PREFIX = "{headgate}:"
"""In braces: a cluster keeps all of a script's keys on one node."""

_PROBE = ("take", 0.001, 1.0, 1.0)
"""A bucket of nobody's. A replica, and a server that is full, take the script and then write nothing."""

_SCRIPT = resources.files(__package__).joinpath("shared.lua").read_text(encoding="utf-8")


class _Question(NamedTuple):
    """A run of the script. ``asker`` waits for its answer; None: nobody does."""

    keys: tuple[str, ...]
    arguments: tuple[str | float, ...]
    charges: Sequence[Charge] = ()
    asker: asyncio.Future[Decision | None] | None = None


class Shared:
    """The buckets in a Redis.

    Args:
        url: ``redis://`` or ``rediss://``; it may hold a password, and is never shown.

    Attributes:
        up: whether Redis answers.

    Raises:
        ImportError: redis-py isn't installed.
        ValueError: the URL can't be.
    """

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Broken

        self.up = False
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            # Once, and not where it was slow: a connection that nobody used for long may have been closed meanwhile.
            retry=Retry(NoBackoff(), 1, (Broken,)),
        )
        try:
            self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        except TypeError:
            raise ValueError("the URL has an option that there isn't") from None
        self._sha = ""
        self._questions: list[_Question] = []
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told_down = False

    def start(self) -> None:
        """Look for Redis, and ask it from then on."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shared rates")

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._lose(None)
        await self._redis.aclose()

    async def look(self) -> None:
        """See that it answers, and writes.

        Raises:
            Exception: it doesn't; whichever its client library raises.
        """
        async with asyncio.timeout(TIMEOUT_S):
            self._sha = await self._redis.script_load(_SCRIPT)
            await self._redis.evalsha(self._sha, 1, PREFIX + "probe", *_PROBE)

    async def take(self, charges: Sequence[Charge]) -> Decision | None:
        """As ``Rates.take``; None where Redis can't be asked. Who is cancelled meanwhile gets its tokens back."""
        if not self.up:
            return None
        asker: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        arguments: list[str | float] = ["take"]
        for _, rate, cost, _ in charges:
            arguments += (rate.interval_s, rate.burst, cost)
        keys = tuple(PREFIX + charge.bucket for charge in charges)
        self._ask(_Question(keys, tuple(arguments), charges, asker))
        try:
            return await asker
        except asyncio.CancelledError:
            if not asker.cancelled() and (decision := asker.result()) is not None and not decision.wait_s:
                self._give_back(charges)  # its client left in the turn in which the answer came
            raise

    def settle(self, charge: Charge, used: float) -> None:
        """As ``Rates.settle``, some time soon."""
        if self.up:
            more_s = (used - charge.cost) * charge.rate.interval_s
            self._ask(_Question((PREFIX + charge.bucket,), ("settle", f"{more_s:.6f}")))

    def _ask(self, question: _Question) -> None:
        self._questions.append(question)
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            if not self.up and not await self._found():
                await asyncio.sleep(RETRY_S)
                continue
            if not self._questions:
                self._wanted.clear()
                await self._wanted.wait()
            asked, self._questions = self._questions[:BATCH_MOST], self._questions[BATCH_MOST:]
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answers = await self._answers(asked)
                for question, answer in zip(asked, answers, strict=True):
                    self._heed(question, answer)
            except Exception as error:  # whatever a client library may raise, no request shall feel it
                self._questions[:0] = asked
                self._lose(error)
                await self._hang_up()

    async def _answers(self, asked: list[_Question]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for question in asked:
            pipeline.evalsha(self._sha, len(question.keys), *question.keys, *question.arguments)
        answers: list[Any] = await pipeline.execute()
        return answers

    def _heed(self, question: _Question, answer: Any) -> None:
        if question.asker is None:
            return
        wait_s, *ahead_s = map(float, answer)
        if not question.asker.done():
            question.asker.set_result(Decision(wait_s, tuple(ahead_s)))
        elif not wait_s:  # its client left meanwhile
            self._give_back(question.charges)

    def _give_back(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            if charge.settles:
                self.settle(charge, 0.0)

    async def _found(self) -> bool:
        try:
            await self.look()
        except Exception as error:
            self._say_down(error)
            await self._hang_up()
            return False
        self.up = True
        log.info("Redis answers: rates are shared")
        self._told_down = False
        return True

    async def _hang_up(self) -> None:
        """What was asked on this connection may still be answered: it is of no use any more."""
        with contextlib.suppress(Exception):
            await self._redis.connection_pool.disconnect()

    def _lose(self, error: Exception | None) -> None:
        """Everybody who waits decides without it."""
        self.up = False
        questions, self._questions = self._questions, []
        for question in questions:
            if question.asker is not None and not question.asker.done():
                question.asker.set_result(None)
        if error is not None:
            self._say_down(error)

    def _say_down(self, error: Exception) -> None:
        if not self._told_down:
            self._told_down = True
            # Not what it says: that can hold the address with its password.
            log.warning("Redis does not answer (%s): each gateway limits by itself until it does", type(error).__name__)
