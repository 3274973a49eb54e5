"""What only some settings need: redis-py and a Redis that answers, OpenTelemetry.

Without redis-py ``serve`` doesn't start; without the rest it serves, with less than was asked for. It ends at findings.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from headgate.gate.shared import Shared
from headgate.workbench.check.finding import Finding, fail, ok, warn


def look(redis_url: str | None, otlp_endpoint: str | None) -> Iterator[Finding]:
    """Nothing where neither is set."""
    if redis_url is not None:
        yield _redis(redis_url)
    if otlp_endpoint is not None:
        yield _tracing(otlp_endpoint)


def _redis(url: str) -> Finding:
    try:
        shared = Shared(url)
    except ImportError:
        mend = f"{sys.executable} -m pip install redis"
        return fail("redis", "REDIS_URL needs redis-py, which isn't installed", mend)
    except ValueError:
        return fail("redis", "REDIS_URL can't be read", "redis://host:6379/0 can.")
    try:
        asyncio.run(_ask(shared))
    except Exception as error:  # whatever a client library may raise
        return warn(
            "redis",
            f"it can't be used ({str(error) or type(error).__name__}): until it can, each gateway counts by itself",
            "Start it, or mend its address or password in HEADGATE_REDIS_URL.",
        )
    return ok("redis", "it answers, and rates are shared")


async def _ask(shared: Shared) -> None:
    try:
        await shared.look()
    finally:
        await shared.stop()


def _tracing(endpoint: str) -> Finding:
    try:
        found = find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:  # of a package above it
        found = None
    if not found:
        mend = f"{sys.executable} -m pip install opentelemetry-exporter-otlp-proto-http"
        return warn("tracing", "OpenTelemetry isn't installed, so nothing is traced", mend)
    return ok("tracing", f"spans go to {re.sub('//[^/]*@', '//…@', endpoint)}")
