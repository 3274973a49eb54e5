"""Who is asked: an address, and what it takes, found out by asking it before the load.

Engines differ: some refuse ``ignore_eos``, some ``stream_options``; some count no tokens. What a target refuses is left
out, and said in the report, so that one command works on all of them. Prompt lengths are fitted to the engine's own
count by two short requests. It sends a handful of requests and ends there; the load is ``load``'s.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

import httpx
import msgspec

from headgate import __version__
from headgate.pool.launchers import Address
from headgate.pool.launchers.remote import parse_url
from headgate.workbench.bench import words
from headgate.workbench.bench.answer import retry_after_s
from headgate.workbench.bench.callers import Caller
from headgate.workbench.bench.raw import Plan, Target
from headgate.workbench.bench.words import Scale
from headgate.workbench.bench.workload import Ask, joined
from headgate.workbench.check.remote import straight, why_silent

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_TIMEOUT_S = 60.0
_PROBES = (40, 160)
"""Words of the two prompts from whose counts the scale is fitted."""


class Unreachable(Exception):
    """The target can't be measured: one line that says why, and the mend."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A target that answers, and how it is asked."""

    address: Address
    target: Target
    scale: Scale
    extra: Mapping[str, Any] = field(default_factory=dict)

    def head(self, caller: Caller) -> bytes:
        """A request's head up to its length; ``%d`` stands for that."""
        address = self.address
        host = f"[{address.host}]" if ":" in address.host else address.host
        said = {
            "host": f"{host}:{address.port}",
            "user-agent": f"headgate-bench/{__version__}",
            "content-type": "application/json",
            **headers(caller),
        }
        lines = [f"POST {self.target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items())]
        return "\r\n".join(lines).replace("%", "%%").encode() + b"\r\ncontent-length: %d\r\n\r\n"

    def body(self, plan: Plan, ask: Ask) -> bytes:
        """A request's body."""
        return msgspec.json.encode({**fields(plan, self.target, ask), **self.extra})


def fields(plan: Plan, target: Target, ask: Ask) -> dict[str, Any]:
    """A request's fields."""
    said: dict[str, Any] = {"model": target.model}
    if plan.api == "chat":
        said["messages"] = [{"role": role, "content": text} for role, text in ask.messages]
    else:
        said["prompt"] = joined(ask.messages)
    said |= {"max_tokens": ask.output_tokens, "temperature": 0, "stream": plan.stream}
    if plan.stream and target.usage:
        said["stream_options"] = {"include_usage": True}
    if target.ignore_eos:
        said["ignore_eos"] = True
    return said


def headers(caller: Caller) -> dict[str, str]:
    """What a caller sends of itself."""
    own = {name.lower(): value for name, value in caller.headers.items()}
    return ({"authorization": f"Bearer {caller.key}"} if caller.key else {}) | own


def address_of(url: str) -> Address:
    """The address of a URL as people write it: with no scheme it is http, and a ``/v1`` at its end is left off.

    Raises:
        Unreachable: it is none.
    """
    try:
        return parse_url(url if "://" in url else f"http://{url}")
    except ValueError as error:
        raise Unreachable(str(error).removeprefix("ENGINE_URLS has ")) from None


def find(
    plan: Plan,
    url: str,
    callers: Sequence[Caller],
    *,
    model: str | None = None,
    ignore_eos: str = "auto",
    extra: Mapping[str, Any] | None = None,
    ready_within_s: float = 30.0,
) -> Aim:
    """Ask a target what it takes.

    Args:
        ignore_eos: ``on``, ``off``, or ``auto``: where it is taken.
        extra: fields added to every body.
        ready_within_s: how long a 429 or 503 is waited out.

    Raises:
        Unreachable: it can't be reached, or doesn't answer as an OpenAI-compatible server does.
    """
    address = address_of(url)
    with straight(address, headers(callers[0]), _TIMEOUT_S) as client:
        probe = _Probe(client, plan, extra or {}, monotonic() + ready_within_s)
        models = probe.get("/v1/models")
        model = model or _first_model(models, address.url)
        target = Target(
            url=address.url,
            path=address.prefix + PATHS[plan.api],
            model=model,
            server=_server(probe, models),
            ignore_eos=ignore_eos != "off",
        )
        return _fitted(probe, address, target, surely_ignore_eos=ignore_eos == "on")


def _fitted(probe: _Probe, address: Address, target: Target, *, surely_ignore_eos: bool) -> Aim:
    notes = []
    counts: list[tuple[int, int]] = []
    dice = random.Random(f"{probe.plan.salt}/probe")
    for count in _PROBES:
        ask = Ask([("user", words.prompt(dice, count))], 1)
        while True:
            status, said, tokens = probe.ask(target, ask)
            if status == 200:
                break
            if status in (400, 422) and target.ignore_eos and not surely_ignore_eos:
                target = msgspec.structs.replace(target, ignore_eos=False)
                notes.append("it doesn't take ignore_eos: answers may end before their length")
            elif status in (400, 422) and target.usage and probe.plan.stream:
                target = msgspec.structs.replace(target, usage=False)
                notes.append("it doesn't take stream_options: tokens are counted by events")
            else:
                raise Unreachable(_refusal(address.url, status, said, has_key=probe.has_key))
        counts.append((count, tokens))
    scale = words.fit(*counts) if all(tokens for _, tokens in counts) else None
    if scale is None:
        notes.append("it counts no prompt tokens: a word is taken for one")
    target = msgspec.structs.replace(
        target, counted=scale is not None, words_per_token=1 / scale.per_word if scale else 1.0, notes=notes
    )
    return Aim(address, target, scale or Scale(), probe.extra)


class _Probe:
    """The requests before the load."""

    def __init__(self, client: httpx.Client, plan: Plan, extra: Mapping[str, Any], give_up_at: float) -> None:
        self.plan, self.extra = plan, extra
        self.has_key = "authorization" in client.headers
        self._client = client
        self._give_up_at = give_up_at

    def get(self, path: str) -> httpx.Response:
        return self._patiently("GET", path, None)

    def look(self, path: str) -> Any:
        """What a page says that may not be there."""
        try:
            answer = self._client.get(path, timeout=2.0)
            return answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None

    def ask(self, target: Target, ask: Ask) -> tuple[int, str, int]:
        """Status, body, and prompt tokens as the engine counts them, 0 where it does not."""
        body = msgspec.json.encode({**fields(self.plan, target, ask), **self.extra})
        answer = self._patiently("POST", PATHS[self.plan.api], body)
        found = [0]
        for line in answer.text.splitlines():
            try:
                said = msgspec.json.decode(line.removeprefix("data:").strip())
                found.append(int(said["usage"]["prompt_tokens"]))
            except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
                continue
        return answer.status_code, answer.text, found[-1]

    def _patiently(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        while True:
            try:
                answer = self._client.request(
                    method, path, content=body, headers={"content-type": "application/json"} if body else None
                )
            except httpx.HTTPError as error:
                raise Unreachable(
                    f"{self._client.base_url} can't be reached: {why_silent(error, _TIMEOUT_S)}."
                ) from None
            if answer.status_code not in (429, 503):
                return answer
            told_s = retry_after_s([(name.lower(), value) for name, value in answer.headers.raw]) or 1.0
            if monotonic() + told_s > self._give_up_at:
                return answer
            sleep(min(told_s, 5.0))


def _first_model(answer: httpx.Response, url: str) -> str:
    try:
        return str(answer.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    if answer.status_code in (401, 403):
        raise Unreachable(f"{url} wants a key, or another one ({answer.status_code}): give it with --key.")
    raise Unreachable(
        f"{url} lists no model (GET /v1/models: {answer.status_code}). Name it with --model, or give the part of the "
        "URL before /v1."
    )


def _refusal(url: str, status: int, said: str, *, has_key: bool) -> str:
    if status in (401, 403):
        return f"{url} {'refuses this key' if has_key else 'wants a key: give it with --key'} ({status})."
    first = " ".join(said.split())[:200]
    return f"{url} answers a short request with {status}: {first or '(nothing)'}"


def _server(probe: _Probe, models: httpx.Response) -> str:
    """What it says it is."""
    status = probe.look("/status")
    if isinstance(status, dict) and isinstance(status.get("slots"), dict) and "version" in status:
        slots, queue = status["slots"], status.get("queue", {})
        kinds = sorted({str(e.get("kind")) for e in status.get("engines", []) if isinstance(e, dict) and e.get("kind")})
        said = [f"Headgate {status['version']}", f"{slots.get('max_active', '?')} slots"]
        if isinstance(queue, dict) and "max" in queue:
            said.append("reject mode" if queue.get("mode") == "reject" else f"a line of {queue['max']}")
        return ", ".join([*said, *([f"{' and '.join(kinds)} behind it"] if kinds else [])])
    told = probe.look("/version")
    if isinstance(told, dict) and isinstance(told.get("version"), str):
        return f"version {told['version'][:40]}"
    return str(models.headers.get("server", ""))[:60]
