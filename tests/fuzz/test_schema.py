"""What the OpenAPI document says can be sent, and what it says can't: schemathesis makes requests of both kinds."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as tried
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.fuzz import COUNT, SEED, TOLD, share
from tests.simulated import simulated_engine
from tests.wire.conftest import ROOMY
from tests.wire.gateway import gateway

if TYPE_CHECKING:
    from typing import Any

SKIPPED = frozenset(("/status/events", "/metrics"))  # one doesn't end; the other is asked all the time


@pytest.mark.skipif(COUNT < 20_000, reason="half a minute: with make test-fuzz")
def test_requests_made_from_the_openapi_document_bring_no_5xx() -> None:
    flags = ("--max-active", "64", "--log-level", "warning", "--request-timeout-s", "20")
    with simulated_engine(*ROOMY) as engine, gateway(engine, *flags) as gate:
        schema = schemathesis.openapi.from_dict(gate.get("/openapi.json").json())
        operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
        operations = [each for each in operations if each.path not in SKIPPED]
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _try(gate, operation, mode, max(3, share(0.04) // len(operations) // 2))
        gate.until(active=0, queued=0)
        engine.state(inflight=0, open=0)


def _try(gate: Any, operation: Any, mode: GenerationMode, count: int) -> None:
    try:
        cases = operation.as_strategy(generation_mode=mode)
        cases.validate()
    except Exception:
        return  # nothing of this kind can be made of it

    @seed(SEED)
    @tried(
        max_examples=count,
        database=None,
        phases=(Phase.generate,),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def one(case: Any) -> None:
        answer = case.call(base_url=f"http://127.0.0.1:{gate.port}", timeout=30)
        assert answer.status_code < 500 or answer.headers.get("x-headgate-reason") == ["queue_timeout"], (
            TOLD,
            case.as_curl_command(),
            answer.status_code,
            answer.text[:300],
        )

    with contextlib.suppress(Unsatisfiable):  # every request of it would be right, say
        one()
