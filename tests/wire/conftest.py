"""One engine and one gateway shared by the tests that only ask them things; a test that needs others starts its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulated import Engine, simulated_engine
from tests.wire.gateway import Gateway, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOMY = ("--max-model-len", "65536", "--num-gpu-blocks", "65536", "--max-num-seqs", "256")
"""Flags for an engine in which one answer can be long and many can run."""


@pytest.fixture(scope="package")
def _engine() -> Iterator[Engine]:
    with simulated_engine(*ROOMY) as engine:
        yield engine


@pytest.fixture(scope="package")
def _gate(_engine: Engine) -> Iterator[Gateway]:
    with gateway(_engine, "--max-active", "4", "--queue-max", "8") as running:
        yield running


@pytest.fixture
def engine(_engine: Engine) -> Iterator[Engine]:
    """An engine with nothing in flight and no faults."""
    yield _engine
    _engine.clear_faults()
    _engine.state(inflight=0, open=0)


@pytest.fixture
def gate(_gate: Gateway, engine: Engine) -> Iterator[Gateway]:
    """A gateway of 4 slots and a line of 8 in front of ``engine``; every test leaves it empty."""
    yield _gate
    engine.clear_faults()
    _gate.until(active=0, queued=0)
