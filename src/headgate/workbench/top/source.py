"""Where the picture comes from: a gateway, by its URL.

It decides what is asked and what an answer that is none means in plain words. It keeps no picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from headgate.workbench.check.remote import why_silent
from headgate.workbench.top.picture import Metrics, Status

_TIMEOUT_S = 4.0


class NotReached(Exception):
    """There is no picture, and why; ``lasting`` where trying again won't help."""

    def __init__(self, why: str, *, lasting: bool = False) -> None:
        super().__init__(why)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Picture:
    """Both pages at one moment; ``raw`` is ``/status`` as it came."""

    status: Status
    metrics: Metrics
    raw: dict[str, Any]


class Source:
    """A gateway.

    Args:
        url: its address; with no scheme it is taken as http, and a ``/v1`` at its end is left off.
        key: sent where the gateway wants one (``OPS_AUTH=key``).
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1").rstrip("/")
        self._has_key = key is not None
        try:
            near = urlsplit(self.url).hostname in ("127.0.0.1", "::1", "localhost")
        except ValueError:
            near = True  # it is no address: ``look`` says so
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {key}"} if key else {}, timeout=_TIMEOUT_S, trust_env=not near
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def look(self) -> Picture:
        """Ask for both pages.

        Raises:
            NotReached: there was no answer, or none of a Headgate.
        """
        body = self._get("/status")
        try:
            status = msgspec.json.decode(body, type=Status)
            raw = msgspec.json.decode(body, type=dict[str, Any])
            metrics = msgspec.json.decode(self._get("/metrics?format=json"), type=Metrics)
        except msgspec.MsgspecError as error:
            raise NotReached(f"something answers there, but not as a Headgate does ({error})") from None
        return Picture(status, metrics, raw)

    def _get(self, path: str) -> bytes:
        try:
            answer = self._client.get(self.url + path)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise NotReached(f"that is no address ({error})", lasting=True) from None
        except httpx.TimeoutException:
            raise NotReached(f"no answer in {_TIMEOUT_S:.0f} s") from None
        except httpx.HTTPError as error:
            raise NotReached(why_silent(error)) from None
        if answer.status_code in (401, 403):
            why = (
                "it refuses this key" if self._has_key else "it wants a key (OPS_AUTH=key): HEADGATE_API_KEY, or --key"
            )
            raise NotReached(f"{why} ({answer.status_code})", lasting=True)
        if answer.status_code != 200:
            what = f"GET {path.partition('?')[0]}: {answer.status_code}"
            raise NotReached(f"something answers there, but not as a Headgate does ({what})")
        return answer.content
