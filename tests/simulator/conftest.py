"""One fast engine shared by the tests that only ask it things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.simulated import Engine, simulated_engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def _shared() -> Iterator[Engine]:
    flags = ("--speed", "10", "--model-name", "headgate-simulated", "--model-name", "second")
    with simulated_engine(*flags) as engine:
        yield engine


@pytest.fixture
def engine(_shared: Engine) -> Iterator[Engine]:
    """An engine with nothing in flight and no faults, ten times as fast as the default."""
    yield _shared
    _shared.clear_faults()
    _shared.state(inflight=0)


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    """A client of that engine."""
    with httpx.Client(base_url=engine.url, timeout=10) as opened:
        yield opened
