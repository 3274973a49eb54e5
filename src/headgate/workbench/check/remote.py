"""Engines that somebody else runs: whether each answers, what it serves, and whether it can be watched.

It asks what the gateway will ask once it runs, with the same key. It ends at findings, one for each URL.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import httpx
import msgspec

from headgate.pool.launchers import Address
from headgate.pool.launchers.remote import parse_urls
from headgate.pool.statement import read_metrics
from headgate.workbench.check.finding import Finding, fail, ok, warn

_TIMEOUT_S = 4.0


class _Card(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Card]


def look(urls: Sequence[str], api_key: str | None) -> list[Finding]:
    """Ask all of them at once. One that doesn't answer is a failure only if no other does."""
    try:
        addresses = parse_urls(urls)
    except ValueError as error:
        return [fail("engine", "`headgate serve` would not start", str(error))]
    with ThreadPoolExecutor(max_workers=min(16, len(urls)), thread_name_prefix="check") as threads:
        asked = list(threads.map(partial(_look, api_key=api_key), addresses))
    anyone = any(isinstance(found, _Seen) for found in asked)
    findings: list[Finding] = []
    for address, found in zip(addresses, asked, strict=True):
        if isinstance(found, _Silent):
            make = warn if anyone else fail
            findings.append(make("engine", f"{address.url}: {found}", found.mend))
        else:
            findings.append(found.finding)
    serving = [found.names for found in asked if isinstance(found, _Seen) and found.names]
    if len(set(serving)) > 1:
        findings.append(
            warn(
                "engine",
                "the engines don't serve the same models: any of them may get a request, and answers 404 where it "
                "doesn't serve its model",
                "Put a gateway in front of each set of engines that serve the same.",
            )
        )
    return findings


class _Seen(NamedTuple):
    """What was found of one that answers, and what it serves."""

    finding: Finding
    names: frozenset[str]


class _Silent(Exception):
    """It can't take work, and why."""

    def __init__(self, why: str, mend: str) -> None:
        super().__init__(why)
        self.mend = mend


def _look(address: Address, api_key: str | None) -> _Seen | _Silent:
    try:
        return _ask(address, api_key)
    except _Silent as silent:
        return silent


def _ask(address: Address, api_key: str | None) -> _Seen:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    with straight(address, headers, _TIMEOUT_S) as client:
        try:
            answer = client.get("/v1/models")
            metrics = client.get("/metrics")
        except httpx.HTTPError as error:
            raise _Silent(why_silent(error), "Start it, or mend its address in HEADGATE_ENGINE_URLS.") from None
    if answer.status_code in (401, 403):
        given = "refuses the key it is given" if api_key else "wants a key"
        raise _Silent(f"it {given} ({answer.status_code})", "Put its key into HEADGATE_ENGINE_API_KEY.")
    try:
        names = [card.id for card in msgspec.json.decode(answer.content, type=_Models).data]
    except msgspec.MsgspecError:
        raise _Silent(
            f"it answers, but lists no models (GET {address.url}/v1/models: {answer.status_code})",
            "An engine that speaks OpenAI's API is wanted there; give the part of its URL before /v1.",
        ) from None
    return _Seen(_judge(address.url, names, metrics), frozenset(names))


def _judge(url: str, names: Sequence[str], metrics: httpx.Response) -> Finding:
    said = f"{url} answers, and serves {', '.join(names) or 'no model'}"
    if not names:
        return warn("engine", said, "Load a model there.")
    counters = read_metrics(metrics.text).counters if metrics.status_code == 200 else None
    if counters is None or counters.running is None:
        return warn(
            "engine",
            f"{said}; no vllm: series on its /metrics ({metrics.status_code}), so a hang won't be noticed by its "
            "progress, and its slots are guessed (8)",
            "Say how many answers it makes at once: --max-active.",
        )
    return ok("engine", f"{said}; its load is seen on its /metrics ({counters.running:.0f} running)")


def straight(address: Address, headers: Mapping[str, str], timeout_s: float) -> httpx.Client:
    """A client that goes the way of the engine's connections: through no proxy, and trusting whom OpenSSL trusts."""
    trusted = ssl.create_default_context() if address.tls else True
    return httpx.Client(base_url=address.url, headers=headers, timeout=timeout_s, trust_env=False, verify=trusted)


def why_silent(error: httpx.HTTPError, timeout_s: float = _TIMEOUT_S) -> str:
    """What an exception of httpx means, in plain words."""
    text = str(error)
    if isinstance(error, httpx.TimeoutException):
        return f"no answer in {timeout_s:.0f} s"
    if "CERTIFICATE" in text.upper():
        return f"its certificate is not trusted ({text})"
    if "refused" in text:
        return "nothing listens there"
    if any(sign in text for sign in ("Name or service", "name resolution", "nodename", "No address")):
        return "its name isn't known to DNS"
    return f"no answer that is one ({text or type(error).__name__})"
