"""What tracing must not do: fill the log when its collector is gone."""

from __future__ import annotations

import asyncio
import importlib
import logging

import pytest

from headgate.telemetry.tracing import SELDOM_S, Tracer, _Seldom


def test_collector_that_is_gone_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async def trace() -> None:
        tracer = Tracer("http://127.0.0.1:1", "0")
        # The names under which the library says it: were they to change, its lines would fill the log again.
        for module in ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal"):
            logger = importlib.import_module(module)._logger
            assert logger.name == module
            for number in range(5):
                logger.warning("Transient error %s", number)
        await tracer.close()

    asyncio.run(trace())
    assert [record.getMessage() for record in caplog.records] == ["Transient error 0"] * 2


def test_another_message_and_a_later_one_are_said() -> None:
    seldom = _Seldom()

    def says(message: str, at: float) -> bool:
        record = logging.LogRecord("x", logging.WARNING, "", 0, message, (), None)
        record.created = at
        return seldom.filter(record)

    assert says("gone", 100)
    assert says("queue full", 101)
    assert not says("gone", 100 + SELDOM_S - 1)
    assert says("gone", 100 + SELDOM_S)
