"""Each kind of client is started once for a module and runs all of its tests; gateways are shared where they can be."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.clients.running import KINDS, Client, Kind, running
from tests.simulated import Engine, simulated_engine
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=KINDS, ids=str)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client that is ready; every test that asks for it runs with every kind, or with those of its own parameters."""
    kind: Kind = request.param
    with tempfile.TemporaryFile("w+") as stderr, running(kind, stderr) as client:
        yield client


@pytest.fixture(scope="package")
def _engine() -> Iterator[Engine]:
    with simulated_engine(*ROOMY) as engine:
        yield engine


@pytest.fixture(scope="package")
def _gate(_engine: Engine) -> Iterator[Gateway]:
    with gateway(_engine, "--max-active", "4", "--queue-max", "8") as running_gate:
        yield running_gate


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
