"""Whose buckets a charge was taken from, and that it is settled there and nowhere else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from headgate.gate.rates import Charge, Decision, Rate, Rates
from headgate.gate.shared import Shared
from headgate.keys import Key
from headgate.quotas import Quotas

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

NOW = 1000.0
KEY = Key("k", digests=(b"x",), tokens_per_min=6000.0)


class Redis:
    """The buckets of several gateways, by the same rules."""

    def __init__(self) -> None:
        self.up = False
        self._rates = Rates()

    async def take(self, charges: Sequence[Charge]) -> Decision:
        return self._rates.take(NOW, charges)

    def settle(self, charge: Charge, used: float) -> None:
        self._rates.settle(NOW, charge, used)


def test_what_was_charged_here_while_redis_was_away_is_not_given_back_there() -> None:
    """Else what one gateway charged by itself is there twice: everybody may use it once more."""

    async def main() -> None:
        redis = Redis()
        quotas = Quotas(lambda: NOW, shared=cast("Shared", redis))
        alone = await quotas.take(quotas.charges(KEY, lambda: 5000.0))
        redis.up = True
        shared = await quotas.take(quotas.charges(KEY, lambda: 5900.0))
        assert not shared.decision.wait_s
        quotas.settle(alone, 100.0)
        assert (await quotas.take(quotas.charges(KEY, lambda: 4900.0))).decision.wait_s > 0
        quotas.settle(shared, 100.0)
        assert not (await quotas.take(quotas.charges(KEY, lambda: 4900.0))).decision.wait_s

    asyncio.run(main())


CHARGE = Charge("tokens:k", Rate(6000.0, 6000.0), 5000.0, settles=True)


class Scripted(Shared):
    """As if Redis were there, and said ``says``: each time the next, the last one for ever."""

    def __init__(self, *says: list[Any]) -> None:
        super().__init__("redis://127.0.0.1:1")
        self.says = list(says)
        self.found = asyncio.Event()

    async def _found(self) -> bool:
        self.up = True
        self.found.set()
        return True

    async def _answers(self, asked: list[Any]) -> list[Any]:
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        return [said] * len(asked)


def test_an_answer_that_makes_no_sense_is_none() -> None:
    """The task that asks must live: all who came later waited for ever, while ``/status`` said that Redis was up."""

    async def main() -> None:
        shared = Scripted(["what?"], [0, 1.5])
        shared.up = True
        shared.start()
        async with asyncio.timeout(10):
            assert await shared.take([CHARGE]) is None, "each gateway by itself"
            await shared.found.wait()
            decision = await shared.take([CHARGE])
        assert decision == Decision(0.0, (1.5,))
        await shared.stop()

    asyncio.run(main())


def test_who_leaves_in_the_turn_in_which_the_answer_comes_gets_its_tokens_back() -> None:
    async def main() -> None:
        shared = Scripted([0, 1.5])
        shared.up = True
        taker = asyncio.create_task(shared.take([CHARGE]))
        await asyncio.sleep(0)
        (question,) = shared._questions
        shared._questions.clear()
        shared._heed(question, [0, 1.5])
        taker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taker
        (back,) = shared._questions
        assert back.arguments[0] == "settle"
        await shared.stop()

    asyncio.run(main())


@pytest.mark.parametrize("url", ["redis://h/0?foo=1", "redis://h:x/0", "unix:///a?db=b"])
def test_a_url_that_redis_could_never_be_asked_at_is_no_redis_that_is_away(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Shared(url)
