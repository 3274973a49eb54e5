"""Looking at an engine over HTTP: what it serves, and what it says about its work.

Separate so that there is one place with timeouts and one list of ways in which looking fails. Each look is a
connection of its own: a kept one would tell us about the connection, not about the engine. It ends at what
was answered; judging it is the supervisor's part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from headgate.names import Host
from headgate.pool import fetch
from headgate.pool.fetch import Slow, Unasked, Unreachable
from headgate.pool.statement import Metrics, read_metrics

if TYPE_CHECKING:
    from headgate.pool.launchers import Address

__all__ = ["Probe", "Slow", "Unasked", "Unfit", "Unreachable"]

CONNECT_S = 2.0
_OK = 200
_CLOSED = (401, 403)


class Unfit(Unreachable):
    """It answers, and not as an engine does that can work."""


class _Models(msgspec.Struct):
    data: list[dict[str, object]]


class Probe:
    """Looks at one address."""

    def __init__(
        self, address: Address, *, answer_s: float, connect_s: float = CONNECT_S, api_key: str | None = None
    ) -> None:
        self._address = address
        self._host = Host(address.host)
        self._answer_s = answer_s
        self._connect_s = connect_s
        self._api_key = api_key

    async def models(self) -> tuple[dict[str, object], ...]:
        """The cards of ``/v1/models``, those with a name; an engine is ready when there is one.

        Raises:
            Unreachable, Slow: there is no such answer.
        """
        answer = await self._get("/v1/models")
        if answer.status != _OK:
            raise Unfit(f"GET /v1/models is answered with {answer.status}{self._why(answer.status)}")
        try:
            found = msgspec.json.decode(answer.body, type=_Models)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unfit("GET /v1/models is not answered with a list of models") from None
        return tuple(card for card in found.data if isinstance(card.get("id"), str))

    def _why(self, status: int) -> str:
        if status not in _CLOSED:
            return ""
        if self._api_key is None:
            return ", it wants a key (ENGINE_API_KEY)"
        return ", it refuses the key that it is sent (ENGINE_API_KEY)"

    async def is_well(self) -> bool:
        """Whether ``/health`` finds no fault; an engine with no such page has none to find.

        Raises:
            Unreachable, Slow: there is no answer.
        """
        return (await self._get("/health")).status < 500

    async def metrics(self) -> Metrics | None:
        """What ``/metrics`` says; None if the engine has no such page.

        Raises:
            Unreachable, Slow: there is no answer.
        """
        answer = await self.page()
        return read_metrics(answer.body.decode("utf-8", "replace")) if answer.status == _OK else None

    async def page(self) -> fetch.Answer:
        """``/metrics`` as it is.

        Raises:
            Unreachable, Slow: there is no answer.
        """
        return await self._get("/metrics")

    async def _get(self, path: str) -> fetch.Answer:
        return await fetch.get(
            self._address,
            path,
            host=self._host,
            api_key=self._api_key,
            connect_s=self._connect_s,
            answer_s=self._answer_s,
        )
