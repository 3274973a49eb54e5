"""The engine and its images, once for all tests that need them; skipped, with the reason, where there can be none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compose import bases
from tests.compose.engine import Engine, NoEngine, engine


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    """A Docker engine with the base images and the gateway's own, built from the Dockerfile as it is."""
    try:
        with engine() as started:
            bases.ensure(started)
            bases.build(started, "--file", "compose/Dockerfile", "--tag", "headgate:local", str(bases.ROOT))
            yield started
            started.docker("image", "prune", "--force", "--filter", "until=168h")
    except NoEngine as reason:
        pytest.skip(f"no Docker engine: {reason}")
