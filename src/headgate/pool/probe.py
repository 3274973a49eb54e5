"""Looking at an engine over HTTP: what it serves, and what it says about its work.

Separate so that there is one place with timeouts and one list of ways in which looking fails. Each look is a
connection of its own: a kept one would tell us about the connection, not about the engine. It ends at what
was answered; judging it is the supervisor's part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import msgspec

from headgate.pool.statement import Metrics, read_metrics

if TYPE_CHECKING:
    from headgate.pool.launchers import Address

CONNECT_S = 2.0


class Unreachable(Exception):
    """It refuses, hangs up, or answers something that is no list of models."""


class Slow(Exception):
    """No answer in time; a busy engine does that, too."""


class _Models(msgspec.Struct):
    data: list[dict[str, object]]


class Probe:
    """Looks at one address. Close it after use."""

    def __init__(
        self, address: Address, *, answer_s: float, connect_s: float = CONNECT_S, api_key: str | None = None
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=address.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx.Timeout(answer_s, connect=connect_s),
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=0),
            trust_env=False,  # a proxy for the Internet is no way to an engine
            verify=address.tls,  # reading the certificates takes 30 ms, for nothing on plain HTTP
        )

    async def models(self) -> tuple[dict[str, object], ...]:
        """The cards of ``/v1/models``; an engine is ready when there is one.

        Raises:
            Unreachable, Slow: there is no such answer.
        """
        response = await self._get("/v1/models")
        if response.status_code != httpx.codes.OK:
            raise Unreachable(f"GET /v1/models is answered with {response.status_code}")
        try:
            found = msgspec.json.decode(response.content, type=_Models)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unreachable("GET /v1/models is not answered with a list of models") from None
        return tuple(found.data)

    async def is_well(self) -> bool:
        """Whether ``/health`` finds no fault; an engine with no such page has none to find.

        Raises:
            Unreachable, Slow: there is no answer.
        """
        return not (await self._get("/health")).is_server_error

    async def metrics(self) -> Metrics | None:
        """What ``/metrics`` says; None if the engine has no such page.

        Raises:
            Unreachable, Slow: there is no answer.
        """
        response = await self._get("/metrics")
        return read_metrics(response.text) if response.status_code == httpx.codes.OK else None

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def _get(self, path: str) -> httpx.Response:
        try:
            return await self._client.get(path)
        except httpx.TimeoutException:
            raise Slow(f"GET {path} is not answered in time") from None
        except (httpx.HTTPError, OSError, AttributeError) as error:
            # anyio asks the socket of a connection that was reset under it, which is None by then.
            raise Unreachable(f"GET {path}: {str(error) or type(error).__name__}") from None
