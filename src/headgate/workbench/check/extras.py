"""What only some settings need: redis-py and a Redis that answers, OpenTelemetry.

Without redis-py ``serve`` doesn't start; without the rest it serves, with less than was asked for. It ends at findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec

from headgate.workbench.check.finding import Finding, fail, ok, warn

_TIMEOUT_S = 2.0


def look(redis_url: str | None, otlp_endpoint: str | None) -> Iterator[Finding]:
    """Nothing where neither is set."""
    if redis_url is not None:
        yield _redis(redis_url)
    if otlp_endpoint is not None:
        yield _tracing(otlp_endpoint)


def _redis(url: str) -> Finding:
    try:
        from redis import Redis, RedisError
    except ImportError:
        return fail("redis", "REDIS_URL needs redis-py, which isn't installed", "pip install 'headgate[redis]'")
    try:
        redis = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
    except ValueError:
        return fail("redis", "REDIS_URL can't be read", "redis://host:6379/0 can.")
    try:
        redis.ping()
    except RedisError as error:
        return warn(
            "redis",
            f"it doesn't answer ({error}): until it does, each gateway counts rates by itself",
            "Start it, or mend its address or password in HEADGATE_REDIS_URL.",
        )
    finally:
        redis.close()
    return ok("redis", "it answers, and rates are shared")


def _tracing(endpoint: str) -> Finding:
    try:
        found = find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:  # of a package above it
        found = None
    if not found:
        return warn("tracing", "OpenTelemetry isn't installed, so nothing is traced", "pip install 'headgate[tracing]'")
    return ok("tracing", f"spans go to {re.sub('//[^/@]*@', '//…@', endpoint)}")
